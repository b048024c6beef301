import json

from ebpf_net.v1 import intake_pb2

from intake.readable import print_readable


def pod(name, address):
    return intake_pb2.Pod(uid=name, name=name, addresses=[address])


def test_entities_are_printed_with_their_addresses_as_text(capsys):
    messages = [
        intake_pb2.Entities(pods=[pod("a", bytes(10) + b"\xff\xff\x0a\x00\x00\x01")]),
        intake_pb2.Entities(pods=[pod("b", b"\xfd" + bytes(14) + b"\x01")]),
    ]
    assert print_readable(messages, ("nodes", "pods"), ()) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "nodes": [],
        "pods": [
            {"uid": "a", "name": "a", "addresses": ["10.0.0.1"]},
            {"uid": "b", "name": "b", "addresses": ["fd00::1"]},
        ],
    }
    assert printed.err == ""


def test_each_failure_is_said_once_and_is_the_exit_status(capsys):
    assert print_readable([], ("pods",), [OSError("gone"), OSError("gone"), OSError("away")]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"pods": []}
    assert printed.err == "error: gone\nerror: away\n"
