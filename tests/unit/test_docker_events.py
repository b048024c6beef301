from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_collector.machine.bounded_http import AnswerError
from kernel_collector.workloads import docker_events as module
from kernel_collector.workloads.docker import created
from kernel_collector.workloads.docker_events import MOST_EVENT_BYTES, CreationEvents
from tests.lab.waiting import wait_until

ID = "ab" * 32
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(container=ID, name="web", **labels):
    """Return an event in the form of GET /events in the reference of Docker's API, v1.45."""
    attributes = {"name": name, "image": "shop/web:1.2", **labels}
    actor = {"ID": container, "Attributes": attributes}
    document = {"status": "create", "Type": "container", "Action": "create", "Actor": actor, "time": 1}
    return json.dumps(document).encode() + b"\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Events:
    """An engine that answers what the test sends; each connection is a queue of bytes, None ends it."""

    def __init__(self, path):
        self.path, self.requests, self.connections = path, [], []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                request = connection.recv(4096)
                if not request:  # who connected has given up
                    connection.close()
                    continue
                self.requests.append(request.split(b" ")[1].decode())
                waiting = queue.SimpleQueue()
                threading.Thread(target=self._send, args=[connection, waiting], daemon=True).start()
                self.connections.append(waiting)

    def _send(self, connection, waiting):
        with connection, contextlib.suppress(OSError):
            while (data := waiting.get()) is not None:
                connection.sendall(data)

    def connected(self, number=1, head=HEAD):
        wait_until(lambda: len(self.connections) >= number, 60, f"connection {number}")
        self.connections[number - 1].put(head)
        return self.connections[number - 1]

    def since(self, number):
        asked = urlsplit(self.requests[number - 1])
        assert asked.path == "/events"
        query = parse_qs(asked.query)
        assert json.loads(query["filters"][0]) == {"type": ["container"], "event": ["create"]}
        return float(query["since"][0])

    def stop(self):
        with contextlib.suppress(OSError):  # it has stopped before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for waiting in self.connections:
            waiting.put(None)
        self.path.unlink(missing_ok=True)


@pytest.fixture
def engine(tmp_path):
    server = Events(tmp_path / "docker.sock")
    yield server
    server.stop()


@pytest.fixture
def follow(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.02)
    opened = []

    def start():
        opened.append(CreationEvents([tmp_path / "absent.sock", tmp_path / "docker.sock"], created))
        return opened[-1]

    yield start
    for events in opened:
        events.close()


def names_of(events, count):
    names = []

    def complete():
        names.extend(found.container_name for _, found in events.take())
        return len(names) >= count

    wait_until(complete, 60, f"{count} creations")
    return names


def test_what_is_read():
    container, found = created(event(**{"io.kubernetes.pod.name": "web-0", "team": "blue"}), "team")
    assert container == ID
    assert {field.name: value for field, value in found.ListFields()} == {
        "container_name": "web",
        "image": "shop/web:1.2",
        "kubernetes_pod": "web-0",
        "namespace": "blue",
    }


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"{",
        b"\xff",
        event().replace(b'"Action": "create"', b'"Action": "die"'),
        event().replace(b'"Type": "container"', b'"Type": "image"'),
        event(container=7),
        event(container="ab"),
        event(container=ID + "\n"),
        b'{"Type":"container","Action":"create","Actor":[]}',
    ],
)
def test_what_is_no_creation(line):
    with pytest.raises(AnswerError):
        created(line)


def test_attributes_of_other_types_say_nothing():
    _, found = created(event(name=[7], team={}), "team")
    assert (found.container_name, found.namespace) == ("", "")


@given(
    st.recursive(
        st.none() | st.text() | st.just(ID) | st.just("container") | st.just("create"),
        lambda part: st.dictionaries(
            st.sampled_from(["Type", "Action", "Actor", "ID", "Attributes", "name"]), part | st.lists(part)
        ),
        max_leaves=10,
    )
)
def test_hostile_events(document):
    with contextlib.suppress(AnswerError):
        created(json.dumps(document).encode(), "name")[1].SerializeToString()


def test_creations_are_asked_for_and_told_in_order(engine, follow):
    started = time.time()
    events = follow()
    connection = engine.connected()
    connection.put(chunk(event(name="a") + event(name="b")) + chunk(event(name="c")[:20]))
    connection.put(chunk(event(name="c")[20:]))
    assert names_of(events, 3) == ["a", "b", "c"]
    assert started - 1 < engine.since(1) <= time.time()


@pytest.mark.parametrize(
    "bad", [b"\n", b"{]\n", event(container="x"), b"x" * MOST_EVENT_BYTES + b"\n", b'{"a":"' + b"x" * (3 << 20) + b"\n"]
)
def test_what_cannot_be_read_is_counted_and_costs_nothing_else(engine, follow, bad):
    events = follow()
    engine.connected().put(chunk(event(name="a") + bad + event(name="b")))
    assert names_of(events, 2) == ["a", "b"]
    assert 1 <= events.lost <= 4


def test_the_latest_are_kept_and_the_others_counted(engine, follow, monkeypatch):
    monkeypatch.setattr(module, "MOST_CREATED", 2)
    events = follow()
    engine.connected().put(chunk(b"".join(event(name=name) for name in "abcde")))
    wait_until(lambda: events.lost == 3, 60, "three that are lost")
    assert names_of(events, 2) == ["d", "e"]


def test_an_engine_that_restarts_is_followed_again_from_what_was_heard_last(engine, follow, tmp_path):
    events = follow()
    engine.connected().put(chunk(event(name="a")))
    assert names_of(events, 1) == ["a"]
    ended = time.time()
    engine.stop()
    time.sleep(0.1)
    again = Events(tmp_path / "docker.sock")
    again.connected().put(chunk(event(name="b")))
    assert names_of(events, 1) == ["b"]
    assert again.since(1) <= ended
    again.stop()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n",
        HEAD + b"0\r\n\r\n",
        HEAD + b"zz\r\n",
        HEAD + b"-1\r\n" + b"x" * (4 << 20),
        HEAD + b"-5\r\n" + b"x" * 1000,
        HEAD + b"0\r\n" + b"a: b\r\n" * (1 << 20),
        HEAD + chunk(event()[:50]),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000,
        b"",
    ],
    ids=["ssh", "end", "no length", "chunk -1", "chunk -5", "trailers", "cut", "continue", "nothing"],
)
def test_after_a_broken_answer_it_is_asked_again(engine, follow, answer):
    events = follow()
    connection = engine.connected(1, answer)
    connection.put(None)
    engine.connected(2).put(chunk(event(name="a")))
    assert names_of(events, 1) == ["a"]


def test_an_engine_that_refuses_is_asked_seldom(engine, follow, monkeypatch):
    monkeypatch.setattr(module, "REFUSED_PAUSE_S", 0.5)
    follow()
    refused = time.monotonic()
    engine.connected(1, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").put(None)
    engine.connected(2)
    assert time.monotonic() - refused > 0.4


def test_endless_events_take_a_part_of_a_core_only(engine, follow):
    events = follow()
    connection = engine.connected()
    for _ in range(40):
        connection.put(chunk(b"{}\n" * 10_000))
    wait_until(lambda: events.lost > 0, 60, "a first event")
    time.sleep(0.5)
    assert events.lost < 400_000


def test_close_ends_a_wait_for_events_and_a_pause(engine, follow, monkeypatch):
    before = set(threading.enumerate())

    def followed():
        return any(thread.name == "docker events" for thread in set(threading.enumerate()) - before)

    events = follow()
    engine.connected().put(chunk(event()))
    names_of(events, 1)
    assert followed()
    started = time.monotonic()
    events.close()
    assert not followed()
    engine.stop()
    monkeypatch.setattr(module, "PAUSE_S", 60.0)
    events = follow()
    assert followed()
    events.close()
    assert not followed()
    assert time.monotonic() - started < module.PAUSE_S / 2
