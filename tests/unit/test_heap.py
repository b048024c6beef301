import subprocess
import sys

import pytest

# Together more than what the C library keeps by itself; each too small for huge pages.
PROGRAM = """
import numpy as np
from ebpf_net.v1 import intake_pb2
from reducer.heap import keep_freed_memory
keep_freed_memory()
faults = lambda: int(open("/proc/self/stat").read().rpartition(")")[2].split()[7])
for _ in range(2):
    before = faults()
    [np.ones(3 << 17) for _ in range(50)]
    last = faults() - before
    {meanwhile}
print(last)
"""
# Each message leaves a block of memory or more.
MESSAGES = "for _ in range(20_000): intake_pb2.Hello()"


@pytest.mark.parametrize("meanwhile", ["pass", MESSAGES], ids=["alone", "among messages"])
def test_freed_memory_is_used_again_without_a_fault(meanwhile):
    program = PROGRAM.format(meanwhile=meanwhile)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 100
