"""A machine in a cloud: its zone names its flows, and so does the metadata service that it asks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.cloud_services import aws_v2, served
from tests.lab.daemons import Exported
from tests.lab.network import run
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from tests.lab.daemons import Lab

METADATA = "169.254.169.254"


def test_a_machine_of_aws(lab: Lab) -> None:
    machine = lab.host("machine")
    run("ip", "-n", lab.centre.namespace.name, "address", "add", f"{METADATA}/32", "dev", "lo")
    run("ip", "-n", machine.namespace.name, "route", "add", f"{METADATA}/32", "via", lab.centre.ipv4)
    asked: list[str] = []

    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str] | None:
        asked.append(path)
        return aws_v2(method, path, headers)

    with contextlib.ExitStack() as stack:
        with lab.centre.entered():
            stack.enter_context(served(answer, (METADATA, 80)))
        reducer = lab.start_reducer_with_sink()
        collector = lab.start_collector(machine)
        wait_until(lambda: any("ipv4-associations" in path for path in asked), 60, "the collector to ask")
        lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    own = {"source__process__name": "kernel-collector", "source__availability_zone": "us-east-1d"}
    there = {"dest__workload__name": "instance metadata", "dest__resolution_type": "INSTANCE_METADATA"}
    zone = {"dest__availability_zone": "us-east-1d", "dest__id": machine.name, "dest__ip": METADATA}
    assert exported.total("tcp.bytes", **own, **there, **zone) > 0
    # The zone is not known in a window that ended before the answer.
    assert exported.total("tcp.bytes", dest__ip=METADATA) == exported.total("tcp.bytes", **there)
