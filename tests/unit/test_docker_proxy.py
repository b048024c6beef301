import pytest

from reducer.matching import grouping
from tests.flow_rows import acceptor_row, connector_row
from tests.named_flows import SERVER_SESSION, Case, only, sent


@pytest.mark.parametrize("rows_of_part", [1, 1000])
def test_what_docker_proxy_passes_on_is_counted_once_and_is_the_containers(monkeypatch, rows_of_part):
    """The reference's rule; here a proxy is its process, so those of two published ports are two."""
    monkeypatch.setattr(grouping, "MOST_ROWS_OF_PART", rows_of_part)
    case = Case()
    case.feed.session(SERVER_SESSION, "docker-proxy", "docker-proxy", "nginx", "redis-server")
    containers = [
        {"id": index, "container_id": f"c{index}", "container_name": name} for index, name in ((7, "web"), (8, "db"))
    ]
    case.tell(SERVER_SESSION, cgroups=containers)
    for index, (proxy, port, inner) in enumerate(((1, 80, "172.17.0.2"), (2, 6379, "172.17.0.3"))):
        moved, near, far = 100 + index, 41000 + index, 40000 + index
        case.dials("10.0.0.2", port=port, local_port=far, socket=9 + index, bytes_sent=moved)
        received = {"bytes_received": moved, "opened": 1}
        taken = acceptor_row(process=proxy, socket=10 + index, local_port=port, remote_port=far, **received)
        passed = connector_row(
            process=proxy,
            socket=20 + index,
            local_address="172.17.0.1",
            local_port=near,
            remote_address=inner,
            remote_port=port,
            bytes_sent=moved,
            opened=1,
        )
        reached = acceptor_row(
            process=3 + index,
            cgroup=7 + index,
            socket=30 + index,
            local_address=inner,
            local_port=port,
            remote_address="172.17.0.1",
            remote_port=near,
            **received,
        )
        case.feed.take(SERVER_SESSION, 6, taken, passed, reached)
    window = case.feed.seal(heard=(0, 1))
    found = sent(window)
    assert {moved: only(labels, "workload.name", "process.name") for moved, labels in found.items()} == {
        100: ("web", "nginx"),
        101: ("db", "redis-server"),
    }
    assert sum(window.levels[0].values["bytes"]) == 201
    assert sum(window.levels[0].values["opened"]) == 2
    assert case.feed.pipeline.statistics().flows_of_docker_proxy == 2


def test_docker_proxy_itself_is_named_while_its_container_is_not_known():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "docker-proxy")
    case.dials("10.0.0.2", bytes_sent=5)
    case.feed.take(SERVER_SESSION, 6, acceptor_row(bytes_received=5))
    (labels,) = case.seal().values()
    assert labels["workload.name"] == "docker-proxy"
