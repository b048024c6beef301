"""The labels of series for Prometheus, encoded when a format first asks for them, and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from daemon.protobuf import field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.protobuf import AttributeValue
    from reducer.conventions import Attribute

_LABEL = 1
"""The field of a Metric of io.prometheus.client that holds its labels."""


class LabelSet:
    """Labels that some series share."""

    __slots__ = ("_labels", "_protobuf", "_text")

    def __init__(self, labels: tuple[Attribute, ...]) -> None:
        self._labels = labels
        self._text: bytes | None = None
        self._protobuf: bytes | None = None

    @property
    def text(self) -> bytes:
        """The labels as text, each with a comma behind it."""
        if self._text is None:
            self._text = text_of(self._labels)
        return self._text

    @property
    def protobuf(self) -> bytes:
        """The labels as fields of a Metric."""
        if self._protobuf is None:
            self._protobuf = protobuf_of(self._labels)
        return self._protobuf


class SeriesLabels(NamedTuple):
    """The labels of a series: those of its ends are shared with other series, and so are those that neither has."""

    source: LabelSet
    dest: LabelSet
    others: LabelSet

    def text(self) -> bytes:
        """Return all of them as text, without a comma at the end."""
        return b"".join((self.source.text, self.dest.text, self.others.text))[:-1]


def text_of(labels: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return labels as text, each with a comma behind it; what is no Unicode text becomes `?`."""
    return "".join(f'{_name(name)}="{_escaped(_value(value))}",' for name, value in labels).encode(errors="replace")


def protobuf_of(labels: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return labels as fields of a Metric."""
    return b"".join(
        field(_LABEL, field(1, _name(name).encode()), field(2, _value(value).encode(errors="replace")))
        for name, value in labels
    )


def _name(name: str) -> str:
    return name.replace(".", "_")


def _value(value: AttributeValue) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
