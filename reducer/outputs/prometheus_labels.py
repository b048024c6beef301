"""The labels of series for Prometheus, encoded when a format first asks for them, and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.protobuf import field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daemon.protobuf import AttributeValue
    from reducer.outputs.conventions import Attribute

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


class LabelColumns(NamedTuple):
    """The encoded labels of series, arrays of bytes, a row a series; many rows share what they hold.

    Attributes:
        source: the labels of the source.
        dest: those of the destination.
        others: those that neither end has.

    """

    source: np.ndarray
    dest: np.ndarray
    others: np.ndarray

    @classmethod
    def as_text(cls, labels: Sequence[SeriesLabels]) -> LabelColumns:
        """Return the labels as text, without a comma at the end."""
        return cls(
            _column([each.source.text for each in labels]),
            _column([each.dest.text for each in labels]),
            _column([each.others.text[:-1] for each in labels]),
        )

    @classmethod
    def as_protobuf(cls, labels: Sequence[SeriesLabels]) -> LabelColumns:
        """Return the labels as fields of a Metric."""
        return cls(
            _column([each.source.protobuf for each in labels]),
            _column([each.dest.protobuf for each in labels]),
            _column([each.others.protobuf for each in labels]),
        )

    def joined(self, rows: np.ndarray) -> list[bytes]:
        """Return all labels of *rows*."""
        joined: list[bytes] = (self.source[rows] + self.dest[rows] + self.others[rows]).tolist()
        return joined


def text_of(labels: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return labels as text, each with a comma behind it; what is no Unicode text becomes `?`."""
    return "".join(f'{_name(name)}="{_escaped(_value(value))}",' for name, value in labels).encode(errors="replace")


def protobuf_of(labels: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return labels as fields of a Metric."""
    return b"".join(
        field(_LABEL, field(1, _name(name).encode()), field(2, _value(value).encode(errors="replace")))
        for name, value in labels
    )


def _column(pieces: list[bytes]) -> np.ndarray:
    return np.array(pieces, object)


def _name(name: str) -> str:
    return name.replace(".", "_")


def _value(value: AttributeValue) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
