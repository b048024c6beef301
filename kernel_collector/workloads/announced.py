"""What rows refer to by id: told before the first row that refers to it, retired after the last.

Batches that are not acknowledged are sent again after a reconnect, so what they refer to is kept until they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MessageT = TypeVar("MessageT")


@dataclass(slots=True)
class _Entity(Generic[MessageT]):
    message: MessageT
    last_batch: int | None = None  # the last one that announced or used it; None before the first


class Announced(Generic[MessageT]):
    """Messages about entities of one kind, by id."""

    def __init__(self) -> None:
        self._entities: dict[int, _Entity[MessageT]] = {}
        self._changed: dict[int, _Entity[MessageT]] = {}
        self._retired: list[int] = []

    def __len__(self) -> int:
        return len(self._entities)

    def __contains__(self, number: int) -> bool:
        return number in self._entities

    def __getitem__(self, number: int) -> MessageT:
        return self._entities[number].message

    def add(self, number: int, message: MessageT) -> None:
        """Have *message* announced."""
        self._entities[number] = self._changed[number] = _Entity(message)

    def changed(self, number: int) -> None:
        """Have the message of *number* announced again."""
        self._changed[number] = self._entities[number]

    def take_changes(self) -> tuple[list[MessageT], list[int]]:
        """Return what is new or changed, and the ids that were retired, since the call before."""
        retired, self._retired = self._retired, []
        return [entity.message for entity in self._changed.values()], retired

    def submitted(self, numbers: Iterable[int], batch: int) -> None:
        """Note that *batch* announced what `take_changes` gave last, and that its rows refer to *numbers*."""
        for entity in self._changed.values():
            entity.last_batch = batch
        self._changed = {}
        for number in numbers:
            if number in self._entities:
                self._entities[number].last_batch = batch

    def retire(self, in_use: Collection[int], acknowledged: int) -> list[int]:
        """Retire, and return, what is not *in_use* and no batch after number *acknowledged* refers to."""
        gone = [
            number
            for number, entity in self._entities.items()
            if number not in in_use and entity.last_batch is not None and entity.last_batch <= acknowledged
        ]
        for number in gone:
            del self._entities[number]
            self._changed.pop(number, None)
        self._retired += gone
        return gone

    def messages(self) -> list[MessageT]:
        """Return all that batches which are not acknowledged, and later rows, may refer to."""
        return [entity.message for entity in self._entities.values()]
