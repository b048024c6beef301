from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_MESSAGE_BYTES
from intake.messages import MOST_BYTES, MOST_ENTITIES, in_messages


def test_nothing_needs_no_message():
    assert list(in_messages([])) == []


def test_as_many_as_they_need():
    pods = [intake_pb2.Pod(uid=f"{i}") for i in range(MOST_ENTITIES + 1)]
    nodes = [intake_pb2.KubernetesNode(uid="n")]
    told = [*(("nodes", node) for node in nodes), *(("pods", pod) for pod in pods)]
    messages = list(in_messages(told, [("retired_services", "s")]))
    assert [(len(each.nodes), len(each.pods), list(each.retired_services)) for each in messages] == [
        (1, MOST_ENTITIES - 1, []),
        (0, 2, ["s"]),
    ]


def test_large_ones_do_not_exceed_a_message():
    pods = [intake_pb2.Pod(uid=f"{i}", name="x" * 100_000) for i in range(40)]
    messages = list(in_messages(("pods", pod) for pod in pods))
    assert [pod.uid for message in messages for pod in message.pods] == [pod.uid for pod in pods]
    assert all(message.ByteSize() < MOST_BYTES + 10_000 < MOST_MESSAGE_BYTES for message in messages)
