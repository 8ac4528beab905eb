"""What holds in every process that imports `tasks`."""

from __future__ import annotations

import os
import subprocess
import sys

# Two threads add, then the process has nothing to do for 4 ms, again and again. The pauses are what is measured;
# nothing is waited for.
PAUSES = """
import os, time
import tasks, torch
torch.set_num_threads(2)
values = torch.ones(200_000)
values.add(1)
idle, began = 0.0, time.process_time()
for _ in range(100):
    values.add(1)
    paused = time.perf_counter()
    time.sleep(0.004)
    idle += time.perf_counter() - paused
print((time.process_time() - began) / idle)
"""


def test_a_thread_that_waits_for_work_uses_no_cpu() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", PAUSES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3
