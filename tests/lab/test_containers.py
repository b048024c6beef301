"""Flows are named by the cgroups of their sockets: containers, pods and services, those that are soon gone as well."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import pytest

from tests.docker_engine import engine
from tests.lab.cgroups import hierarchy, inside, remove
from tests.lab.daemons import Exported
from tests.lab.network import wait_for_listener
from tests.lab.traffic import DISCARDING_SERVER
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.cgroups import Hierarchy
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

BEFORE, SHORT, OF_POD, OF_V1 = (f"{digit:x}" * 64 for digit in (10, 11, 12, 13))
UID = "3f1cc5a2-91b2-4a52-8ba0-cd6a2c8e5c10"
POD = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
PORT = 9000
SIZE = 100_000
DATAGRAM = 500
CLIENT = f"""
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(bytes(int(sys.argv[3])))
connection.close()
with socket.socket(type=socket.SOCK_DGRAM) as sending:
    sending.sendto(bytes({DATAGRAM}), (sys.argv[1], int(sys.argv[2])))
time.sleep(float(sys.argv[4]))
"""


def described(name: str, image: str, **labels: str) -> dict:
    return {"Name": f"/{name}", "Config": {"Image": image, "Labels": labels, "Env": []}}


DESCRIBED = {
    BEFORE: described("started-before", "reg:5000/shop/before:1.0"),
    SHORT: described("soon-gone", "shop/short@sha256:12ab", team="blue"),
    OF_POD: described(
        "k8s_front_web-0",
        "shop/front:2.1",
        **{
            "io.kubernetes.container.name": "front",
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "web",
        },
    ),
    OF_V1: described("of-v1", "shop/v1"),
}


@pytest.fixture
def unified() -> Iterator[Hierarchy]:
    with hierarchy("cgroup2") as opened:
        yield opened


def client(lab: Lab, host: Host, server: Host, cgroup: Path, lives_s: float = 0) -> Program:
    arguments = (server.ipv4, str(PORT), str(SIZE), str(lives_s))
    return lab.programs.start("client", *inside(cgroup, sys.executable, "-c", CLIENT, *arguments), host=host)


def test_containers_pods_and_services_name_their_flows(unified: Hierarchy, lab: Lab) -> None:
    one, two = lab.host("one"), lab.host("two")
    host_directory = lab.directory / "host"
    there = set(DESCRIBED)  # the engine forgets a container that has ended
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(
            engine(host_directory / "run" / "docker.sock", lambda id_: DESCRIBED[id_] if id_ in there else None)
        )
        before = unified.make(f"docker/{BEFORE}")
        reducer = lab.start_reducer_with_sink()
        collector = lab.start_collector(
            one,
            one,
            two,
            options=("--host-dir", str(host_directory), "--docker-ns-label", "team"),
        )
        web = unified.make("system.slice/web.service")
        lab.programs.start("server", *inside(web, sys.executable, "-c", DISCARDING_SERVER, f"{PORT}"), host=two)
        wait_for_listener(two, PORT)

        short = unified.make(f"system.slice/docker-{SHORT}.scope")
        assert client(lab, one, two, short, 0.4).wait() == 0
        remove(short)
        wait_until(lambda: SHORT in answers.asked, 60, "the engine to be asked")
        there.remove(SHORT)

        of_pod = unified.make(f"{POD}/docker-{OF_POD}.scope")
        without_name = unified.make(f"{POD}/cri-containerd-{'e' * 64}.scope")
        timer = unified.make("system.slice/backup@daily.service/part")
        for cgroup in (before, of_pod, without_name, timer):
            assert client(lab, one, two, cgroup).wait() == 0
        clients = 5
        with contextlib.suppress(LookupError):  # a machine with cgroup v2 alone
            v1 = stack.enter_context(hierarchy("pids"))
            of_v1 = client(lab, one, two, v1.make(f"docker/{OF_V1}"), 600)
            wait_until(lambda: OF_V1 in answers.asked, 60, "a poll to see the process")
            of_v1.kill()
            clients += 1
        lab.finish(reducer, collector)
        assert sorted(answers.asked) == sorted(DESCRIBED)[: clients - 2]
    exported = Exported(lab.sink.points())

    def sent(workload: str, **labels: str) -> float:
        wanted = {f"source__{name}": value for name, value in labels.items()}
        return exported.total("tcp.bytes", source__workload__name=workload, dest__workload__name="web", **wanted)

    container = {"resolution_type": "CONTAINER", "id": "one", "ip": one.ipv4}
    assert sent("started-before", container__name="started-before", image_version="1.0", **container) == SIZE
    assert sent("soon-gone", image_version="sha256:12ab", namespace__name="blue", **container) == SIZE
    assert sent("front", container__name="front", pod="web-0", namespace__name="web", **container) == SIZE
    assert sent("backup@daily", resolution_type="PROCESS") == SIZE
    assert sent("of-v1", **container) == (SIZE if clients > 5 else 0)
    # The sockets of UDP are gone before a poll could see them.
    names = ["started-before", "soon-gone", "front", "backup@daily", *(["of-v1"] if clients > 5 else [])]
    assert [exported.total("udp.bytes", source__workload__name=name) for name in names] == [DATAGRAM] * len(names)
    assert exported.total("tcp.bytes", source__ip=one.ipv4, dest__workload__name="web") == SIZE * clients
