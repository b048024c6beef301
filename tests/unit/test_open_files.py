import resource
import subprocess
import sys


def test_a_process_may_open_as_many_files_as_the_system_lets_it():
    program = "import resource; from daemon.open_files import allow_open_files as allow; allow();"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fewer():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))

    found = subprocess.run(
        [sys.executable, "-c", program + "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"],
        preexec_fn=fewer,
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout.split() == [str(most), str(most)]
