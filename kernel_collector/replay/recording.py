"""The collector's outside, recorded and played again: each part of it stands behind a proxy.

What the core asks of the outside (`outside.py`) and what it is answered are entries of a transcript, as are the moments
when the event loop calls the core. A replay gives the same answers at the same calls, so the core does the same again.
Where the outside calls the core in the middle of a question (a concern has the processes of its records identified),
that call is an entry before the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from daemon.version import VERSION
from kernel_collector.replay.transcript import TranscriptEndError, TranscriptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ebpf_net.v1 import intake_pb2

    from kernel_collector.replay.transcript import Entry, TranscriptWriter

_T = TypeVar("_T")
# What these are given they complete: how it is after the call is a part of the answer.
_COMPLETING = {"fill", "announce"}
# Asked between the moments, for a receiver that connects; the core takes nothing from it.
_UNRECORDED = {"remind"}


class Tape:
    """Records: what is asked of the outside, and what the outside calls, goes through here.

    Args:
        writer: of the transcript.

    """

    def __init__(self, writer: TranscriptWriter) -> None:
        self._writer = writer

    def begin(self, host: intake_pb2.Host, longest_command_line: int, *, every_container: bool) -> None:
        """Record what the core is made with; the first of all."""
        self._writer.write(
            {
                "version": VERSION,
                "host": host,
                "longest_command_line": longest_command_line,
                "every_container": every_container,
            }
        )

    def outside(self, name: str, part: Any) -> Any:
        """Return a part of the outside whose answers are recorded."""
        return _RecordedPart(self, name, part)

    def inside(self, name: str, function: Callable[..., _T]) -> Callable[..., _T]:
        """Return a function of the core whose calls by the outside are recorded."""

        def recorded(*arguments: Any) -> _T:
            self._writer.write({"call": name, "arguments": list(arguments)})
            return function(*arguments)

        return recorded

    def moment(self, name: str, function: Callable[[], object]) -> None:
        """Call the core, from the event loop; when it returns all of it is in the file."""
        self._writer.write({"moment": name})
        function()
        self._writer.flush()

    def ask(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Ask the outside, and record what it answers, an OSError as well."""
        entry: Entry = {"answer": name}
        try:
            answer = function(*arguments)
        except OSError as error:
            self._writer.write(entry | {"raised": error})
            raise
        if name.rpartition(".")[2] in _COMPLETING:
            entry["completed"] = arguments[0]
        elif arguments and answer is arguments[0]:
            entry["unchanged"] = True
        elif answer is not None:
            entry["value"] = answer
        self._writer.write(entry)
        return answer

    def value(self, name: str, value: _T) -> _T:
        """Record an attribute of the outside."""
        self._writer.write({"attribute": name, "value": value})
        return value


class _RecordedPart:
    def __init__(self, tape: Tape, name: str, part: Any) -> None:
        self._tape, self._name, self._part = tape, name, part

    def __getattr__(self, attribute: str) -> Any:
        name = f"{self._name}.{attribute}"
        found = getattr(self._part, attribute)
        if attribute in _UNRECORDED:
            return found
        if callable(found):
            return lambda *arguments: self._tape.ask(name, found, arguments)
        return self._tape.value(name, found)


class Player:
    """Plays a transcript: gives the answers that were recorded, and makes the calls.

    Args:
        entries: of the transcript.

    """

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._next: Entry | None = next(entries, None)
        self._inward: dict[str, Callable[..., Any]] = {}

    def begin(self) -> Entry:
        """Return what `Tape.begin` was given, by its names; called first.

        Raises:
            TranscriptError: it is not there.

        """
        if self._next is None or "version" not in self._next:
            raise _differs(self._next, "the beginning")
        return self._take()

    def outside(self, name: str) -> Any:
        """Return a part of the outside as it was."""
        return _PlayedPart(self, name)

    def inside(self, name: str, function: Callable[..., object]) -> None:
        """Have calls of *name* by the outside go to *function*."""
        self._inward[name] = function

    def next_moment(self) -> str | None:
        """Return the name of the next call of the core from the event loop; None at the end.

        Raises:
            TranscriptError: something else comes next: it was recorded by another version.

        """
        if self._next is None:
            return None
        if "moment" not in self._next:
            raise _differs(self._next, "the next moment")
        name: str = self._take()["moment"]
        return name

    def attribute_is_next(self, name: str) -> bool:
        """Tell whether *name* was asked for as an attribute, not called."""
        return self._next is not None and self._next.get("attribute") == name

    def value(self) -> Any:
        """Return the attribute that is next."""
        return self._take()["value"]

    def answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what was answered, or raise it.

        Raises:
            TranscriptError: something else was asked then: it was recorded by another version, or ends here.

        """
        while self._next is not None and "call" in self._next:
            call = self._take()
            self._inward[call["call"]](*call["arguments"])
        if self._next is None or self._next.get("answer") != name:
            raise _differs(self._next, name)
        entry = self._take()
        if "raised" in entry:
            raise entry["raised"]
        if "completed" in entry:
            arguments[0].CopyFrom(entry["completed"])
        return arguments[0] if "unchanged" in entry else entry.get("value")

    def _take(self) -> Entry:
        taken = self._next
        assert taken is not None
        self._next = next(self._entries, None)
        return taken


class _PlayedPart:
    def __init__(self, player: Player, name: str) -> None:
        self._player, self._name = player, name

    def __getattr__(self, attribute: str) -> Any:
        name = f"{self._name}.{attribute}"
        if self._player.attribute_is_next(name):
            return self._player.value()
        return lambda *arguments: self._player.answer(name, arguments)


def _differs(found: Entry | None, wanted: str) -> TranscriptError:
    if found is None:
        return TranscriptEndError(f"the recording ends where {wanted} is asked for")
    told = next((f"{kind} {found[kind]}" for kind in found), "nothing")
    return TranscriptError(f"the recording has {told} where {wanted} is asked for: another version made it")
