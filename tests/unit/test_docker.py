from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_collector.machine.bounded_http import AnswerError, Service
from kernel_collector.machine.foreign_json import LONGEST_VALUE
from kernel_collector.workloads import docker as module
from kernel_collector.workloads.docker import MOST_ANSWER_BYTES, Docker, described
from tests.docker_engine import engine
from tests.lab.waiting import wait_until

ID = "ab" * 32
# The form of GET /containers/{id}/json in the reference of Docker's API, v1.45, cut to what is near.
DOCUMENT = {
    "Id": ID,
    "Name": "/shop-web-1",
    "Image": "sha256:1234",
    "State": {"Status": "running"},
    "Config": {
        "Hostname": "ab",
        "Env": [
            "PATH=/bin",
            "NOMAD_JOB_NAME=shop",
            "NOMAD_GROUP_NAME=front",
            "NOMAD_TASK_NAME=web=1",
            "NOMAD_NAMESPACE",
        ],
        "Image": "registry.example:5000/shop/web:1.2",
        "Labels": {
            "io.kubernetes.container.name": "web",
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "3f1cc5a2-91b2-4a52-8ba0-cd6a2c8e5c10",
            "com.amazonaws.ecs.container-name": "front",
            "com.amazonaws.ecs.task-definition-family": "shop-front",
            "com.amazonaws.ecs.task-definition-version": "7",
            "team": "blue",
        },
    },
}


def fields(found):
    return {field.name: value for field, value in found.ListFields()}


def test_what_is_read():
    assert fields(described(json.dumps(DOCUMENT).encode(), "team")) == {
        "container_name": "shop-web-1",
        "image": "registry.example:5000/shop/web:1.2",
        "namespace": "blue",
        "kubernetes_container": "web",
        "kubernetes_pod": "web-0",
        "kubernetes_namespace": "shop",
        "pod_uid": "3f1cc5a2-91b2-4a52-8ba0-cd6a2c8e5c10",
        "ecs_container": "front",
        "ecs_task_family": "shop-front",
        "ecs_task_version": "7",
        "nomad_job": "shop",
        "nomad_group": "front",
        "nomad_task": "web=1",
    }


def test_nomad_and_the_namespace_label_are_left_alone_where_not_asked_for():
    found = fields(described(json.dumps(DOCUMENT).encode(), nomad=False))
    assert not {name for name in found if name.startswith("nomad")}
    assert "namespace" not in found


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"Name": 7, "Config": []},
        {"Config": {"Labels": None, "Env": None, "Image": None}},
        {"Config": {"Labels": ["a"], "Env": {"a": 1}}},
        {"Config": {"Env": [None, 7, "NOMAD", "=", ""]}},
    ],
)
def test_other_types_say_nothing(document):
    assert fields(described(json.dumps(document).encode())) == {}


def test_text_is_cut_and_printable():
    found = described(json.dumps({"Name": "\n\x1b\ud800" + "x" * 1000}).encode())
    assert found.container_name.startswith(" \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}x")
    assert len(found.container_name) == LONGEST_VALUE
    found.SerializeToString()


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000, b'{"Name":' + b"9" * 5000 + b"x"])
def test_no_document(body):
    with pytest.raises(AnswerError):
        described(body)


@given(
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.text(),
        lambda part: st.dictionaries(
            st.sampled_from(["Config", "Labels", "Env", "Name", "Image", "io.kubernetes.pod.name"]),
            part | st.lists(part),
        ),
    ).map(lambda document: json.dumps(document).encode())
)
def test_hostile_documents(body):
    with contextlib.suppress(AnswerError):
        described(body, "Name").SerializeToString()


def answers_of(docker, count=1):
    answers = []

    def complete():
        answers.extend(docker.take())
        return len(answers) >= count

    wait_until(complete, 60, f"{count} answers")
    return answers


def test_an_engine_is_asked_and_an_absent_one_passed_over(tmp_path):
    with engine(tmp_path / "docker.sock", lambda container: DOCUMENT if container == ID else None) as server:
        docker = Docker([tmp_path / "absent.sock", tmp_path / "docker.sock"], "team")
        assert docker.ask(ID)
        ((container, found),) = answers_of(docker)
        assert (container, found.container_name, found.namespace) == (ID, "shop-web-1", "blue")
        assert docker.take() == []
        assert server.asked == [ID]


def test_what_is_not_answered_is_counted_after_some_tries(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    answers = {"later": DOCUMENT, "broken": b"SSH-2.0-x\r\n"}
    with engine(tmp_path / "docker.sock", answers.get) as server:
        docker = Docker([tmp_path / "docker.sock"])
        for container in ("broken", "gone", "later"):
            docker.ask(container)
        assert [container for container, _ in answers_of(docker)] == ["later"]
        assert docker.failures == 2
        assert server.asked == ["broken"] * module.TRIES + ["gone", "later"]


def test_questions_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_QUESTIONS", 3)
    monkeypatch.setattr(module, "_PAUSE_S", 60)
    docker = Docker([tmp_path / "absent.sock"])
    assert [docker.ask(str(index)) for index in range(9)].count(True) in (3, 4)


HEAD = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "too long": HEAD + b"Content-Length: %d\r\n\r\n" % (MOST_ANSWER_BYTES * 9) + b" " * (MOST_ANSWER_BYTES + 9),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-x\r\n",
    "endless header": HEAD + b"X: " + b"x" * 70_000,
    "many headers": HEAD + b"X: x\r\n" * 1000,
    "broken chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk of all that comes": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b" " * (MOST_ANSWER_BYTES * 3),
    "endless trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: x\r\n" * MOST_ANSWER_BYTES,
    "negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "short": HEAD + b"Content-Length: 10\r\n\r\nabc",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_errors(tmp_path, name):
    service = Service(str(tmp_path / "docker.sock"), MOST_ANSWER_BYTES)
    with engine(tmp_path / "docker.sock", lambda _: HOSTILE[name]), pytest.raises((AnswerError, OSError)):
        described(service.fetch(f"/containers/{ID}/json", time.monotonic() + 2).body)


def test_an_engine_that_drips_is_given_up_in_time(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "docker.sock"))
    listener.listen()
    stopped = threading.Event()

    def drip():
        with listener.accept()[0] as connection:
            connection.sendall(HEAD)
            while not stopped.wait(0.05):
                try:
                    connection.sendall(b"X-A: b\r\n")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Service(str(tmp_path / "docker.sock")).fetch("/", started + 0.5)
    assert time.monotonic() - started < 2
    stopped.set()
    thread.join()
    listener.close()
