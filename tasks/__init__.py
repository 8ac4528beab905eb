"""The stages of the pipeline and the service: the Python package inside the images."""

import os

# A thread of torch that waits for its next work spins for some 50 us, then leaves its core to others. libgomp's default
# is 300,000 turns, some milliseconds: on a busy machine a small training then took 8 times the CPU time and 9 times as
# long. Without any spinning, the same training took half as long again on an idle machine. libgomp reads this when
# torch is imported, which happens after this package.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Of commands that import much and are soon done. Python's own are 700, 10, 10: by them a sixth of a short stage's CPU
# time goes into looking through what its imports have just made.
GC_THRESHOLDS = (10_000, 10, 10)
