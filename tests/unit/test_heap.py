import subprocess
import sys

# Together more than what the C library keeps by itself; each too small for huge pages.
PROGRAM = """
import numpy as np
from reducer.heap import keep_freed_memory
keep_freed_memory()
faults = lambda: int(open("/proc/self/stat").read().rpartition(")")[2].split()[7])
for _ in range(2):
    before = faults()
    [np.ones(3 << 17) for _ in range(50)]
    last = faults() - before
print(last)
"""


def test_freed_memory_is_used_again_without_a_fault():
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 100
