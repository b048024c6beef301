import pytest
from ebpf_net.v1 import intake_pb2

from reducer.knowledge.owners import Owners
from tests.rows import session_id


@pytest.fixture
def owners():
    """Owners of rows of two sessions, on host-0 and host-1."""
    known = Owners()
    for number in range(2):
        known.hello(session_id(number), intake_pb2.Host(name=f"host-{number}"))
    return known
