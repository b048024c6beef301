"""Messages about objects of one kind by uid, and which of them are to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

MessageT = TypeVar("MessageT")


class ObjectTable(Generic[MessageT]):
    """All objects, those that were deleted lately as well."""

    def __init__(self) -> None:
        self._messages: dict[str, MessageT] = {}
        self._changed: dict[str, None] = {}
        self._retired: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, uid: str) -> bool:
        return uid in self._messages

    def __getitem__(self, uid: str) -> MessageT:
        return self._messages[uid]

    def put(self, uid: str, message: MessageT) -> None:
        """Take a new or changed object."""
        if self._messages.get(uid) != message:
            self._messages[uid] = message
            self._changed[uid] = None
            self._retired.pop(uid, None)

    def retire(self, uid: str) -> None:
        """Forget an object."""
        del self._messages[uid]
        self._changed.pop(uid, None)
        self._retired[uid] = None

    def take_changes(self) -> tuple[list[MessageT], list[str]]:
        """Return what is new or changed, and the uids that were retired, since the call before."""
        changed, retired = self._changed, self._retired
        self._changed, self._retired = {}, {}
        return [self._messages[uid] for uid in changed], list(retired)

    def messages(self) -> Iterator[MessageT]:
        """Yield all."""
        yield from self._messages.values()
