import subprocess
import sys

PROGRAM = """
import ctypes
from google._upb import _message
from reducer.imported_function import replace_imported
print([replace_imported(_message.__file__, name, ctypes.CDLL(None).labs) for name in ("malloc_trim", "malloc_tri")])
"""


def test_a_function_is_replaced_by_its_whole_name():
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["[True,", "False]"]
