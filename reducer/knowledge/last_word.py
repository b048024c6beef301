"""What several entities say of one thing: the interfaces of a machine of its network, nodes of one name of its zone."""

from __future__ import annotations

from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class LastWord(Generic[Thing]):
    """Keeps what each says, so that when one falls silent the word of another stands.

    Attributes:
        of: by thing, the word of who spoke last.

    """

    def __init__(self) -> None:
        self.of: dict[Thing, str] = {}
        self._said: dict[Thing, dict[int, str]] = {}

    def say(self, thing: Thing, speaker: int, word: str) -> None:
        """Let the word of *speaker* stand."""
        said = self._said.setdefault(thing, {})
        said.pop(speaker, None)
        said[speaker] = self.of[thing] = word

    def withdraw(self, thing: Thing, speaker: int) -> None:
        """Forget what *speaker* said, if anything."""
        said = self._said.get(thing)
        if said is None or said.pop(speaker, None) is None:
            return
        if said:
            self.of[thing] = next(reversed(said.values()))
        else:
            del self._said[thing], self.of[thing]
