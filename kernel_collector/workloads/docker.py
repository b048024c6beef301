"""What Docker says of containers: name, image, and the labels and variables that name a workload.

A thread of its own asks, over the engine's socket; the daemon leaves questions and takes answers and never waits.
Of a container that is gone before the answer, the event of its creation tells all but the variables.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ebpf_net.v1 import intake_pb2

from kernel_collector.machine.bounded_http import AnswerError, Service
from kernel_collector.machine.foreign_json import object_of, text_of
from kernel_collector.workloads.docker_events import CreationEvents

if TYPE_CHECKING:
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)
MOST_QUESTIONS = 1_024
MOST_ANSWER_BYTES = 4 << 20
# An engine that is starting a container answers questions about it when it is done.
TIMEOUT_S = 5.0
TRIES = 3
_PAUSE_S = 0.5
_CONTAINER_ID = re.compile("[0-9a-f]{64}")
_LABELS = {
    "io.kubernetes.container.name": "kubernetes_container",
    "io.kubernetes.pod.name": "kubernetes_pod",
    "io.kubernetes.pod.namespace": "kubernetes_namespace",
    "io.kubernetes.pod.uid": "pod_uid",
    "com.amazonaws.ecs.container-name": "ecs_container",
    "com.amazonaws.ecs.task-definition-family": "ecs_task_family",
    "com.amazonaws.ecs.task-definition-version": "ecs_task_version",
}
_NOMAD_VARIABLES = {
    "NOMAD_JOB_NAME": "nomad_job",
    "NOMAD_GROUP_NAME": "nomad_group",
    "NOMAD_TASK_NAME": "nomad_task",
    "NOMAD_NAMESPACE": "nomad_namespace",
}


class Docker:
    """Asks an engine about containers; at most `MOST_QUESTIONS` wait.

    Args:
        sockets: where its socket may be; the first that takes a connection is used.
        namespace_label: label of containers that holds their namespace; empty: none does.
        nomad: whether the variables of Nomad are looked at.

    """

    def __init__(self, sockets: list[Path], namespace_label: str = "", *, nomad: bool = True) -> None:
        self._unanswered = 0
        self._sockets = sockets
        self._namespace_label = namespace_label
        self._nomad = nomad
        self._questions: queue.Queue[str] = queue.Queue(MOST_QUESTIONS)
        self._answers: queue.SimpleQueue[tuple[str, intake_pb2.Cgroup]] = queue.SimpleQueue()
        self._events = CreationEvents(sockets, lambda line: created(line, namespace_label))
        threading.Thread(target=self._serve, name="docker", daemon=True).start()

    @property
    def failures(self) -> int:
        """Containers of which it did not say what was asked, and events that could not be read or kept."""
        return self._unanswered + self._events.lost

    def ask(self, container_id: str) -> bool:
        """Have a container described; return whether there was room for the question."""
        try:
            self._questions.put_nowait(container_id)
        except queue.Full:
            return False
        return True

    def take(self) -> list[tuple[str, intake_pb2.Cgroup]]:
        """Return what was said since the call before, asked or not: container id, and the fields that Docker fills."""
        answers = self._events.take()
        while not self._answers.empty():
            answers.append(self._answers.get())
        return answers

    def close(self) -> None:
        """Follow events no longer."""
        self._events.close()

    def _serve(self) -> None:
        while True:
            container_id = self._questions.get()
            try:
                answer = self._described(container_id)
            except AnswerError as error:
                self._unanswered += 1
                _LOGGER.debug("container %s: %s", container_id, error)
            else:
                self._answers.put((container_id, answer))

    def _described(self, container_id: str) -> intake_pb2.Cgroup:
        for left in reversed(range(TRIES)):
            try:
                body = self._fetch(container_id)
            except AnswerError as error:
                if not left or error.status == HTTPStatus.NOT_FOUND:  # it is gone
                    raise
                time.sleep(_PAUSE_S)
            else:
                return described(body, self._namespace_label, nomad=self._nomad)
        raise AssertionError

    def _fetch(self, container_id: str) -> bytes:
        reason = "no socket of Docker"
        for path in self._sockets:
            try:
                service = Service(str(path), MOST_ANSWER_BYTES)
                return service.fetch(f"/containers/{container_id}/json", time.monotonic() + TIMEOUT_S).body
            except OSError as error:
                reason = f"{path}: {error}"
        raise AnswerError(reason)


def described(body: bytes, namespace_label: str = "", *, nomad: bool = True) -> intake_pb2.Cgroup:
    """Return what the JSON of GET /containers/ID/json says; what is missing, or of another type, is left out.

    Raises:
        AnswerError: it is no JSON object.

    """
    document = object_of(body)
    config = _mapping(document.get("Config"))
    found = _named(document.get("Name"), config.get("Image"), _mapping(config.get("Labels")), namespace_label)
    variables = config.get("Env")
    for variable in variables if nomad and isinstance(variables, list) else ():
        name, _, value = variable.partition("=") if isinstance(variable, str) else ("", "", "")
        if name in _NOMAD_VARIABLES:
            setattr(found, _NOMAD_VARIABLES[name], text_of(value))
    return found


def created(line: bytes, namespace_label: str = "") -> tuple[str, intake_pb2.Cgroup]:
    """Return the container's id, and what the JSON of an event of GET /events says of its creation.

    Raises:
        AnswerError: it is no JSON object, or not the creation of a container.

    """
    document = object_of(line)
    actor = _mapping(document.get("Actor"))
    container_id = actor.get("ID")
    if (document.get("Type"), document.get("Action")) != ("container", "create"):
        raise AnswerError("an event that is not the creation of a container")
    if not isinstance(container_id, str) or not _CONTAINER_ID.fullmatch(container_id):
        raise AnswerError("an event without the id of a container")
    attributes = _mapping(actor.get("Attributes"))  # the labels, name and image among them
    return container_id, _named(attributes.get("name"), attributes.get("image"), attributes, namespace_label)


def _named(name: object, image: object, labels: dict[str, Any], namespace_label: str) -> intake_pb2.Cgroup:
    found = intake_pb2.Cgroup(container_name=text_of(name).removeprefix("/"), image=text_of(image))
    for label, field in _LABELS.items():
        setattr(found, field, text_of(labels.get(label)))
    if namespace_label:
        found.namespace = text_of(labels.get(namespace_label))
    return found


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
