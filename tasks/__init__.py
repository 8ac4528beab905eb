"""The stages of the pipeline and the service: the Python package inside the images."""

import os

# A thread of torch that waits for its next work leaves its core to others. By default libgomp keeps it busy waiting for
# some milliseconds each time: beside other programs a small training then took eight times the CPU time, and nine times
# as long. libgomp reads this when torch is imported, which happens after this package.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Of commands that import much and are soon done. Python's own are 700, 10, 10: by them a sixth of a short stage's CPU
# time goes into looking through what its imports have just made.
GC_THRESHOLDS = (10_000, 10, 10)
