import resource
import subprocess
import sys

PROGRAM = """
import resource
from daemon.open_files import allow_open_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_may_open_as_many_files_as_the_system_lets_it():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert found.stdout.split() == [str(most), str(most)]
