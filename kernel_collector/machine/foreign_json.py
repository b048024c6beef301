"""JSON of services that may be anything: text is made printable, and cut."""

from __future__ import annotations

import json
from typing import Any

from kernel_collector.machine.bounded_http import AnswerError
from kernel_collector.text import printable

LONGEST_VALUE = 128


def json_of(body: bytes) -> Any:
    """Return the JSON of an answer.

    Raises:
        AnswerError: it is none.

    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"no JSON: {error!r}") from error


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        AnswerError: it is none.

    """
    document = json_of(body)
    if not isinstance(document, dict):
        raise AnswerError("no JSON object")
    return document


def text_of(value: object) -> str:
    """Return a value that is text; empty where it is anything else."""
    return printable(value)[:LONGEST_VALUE] if isinstance(value, str) else ""
