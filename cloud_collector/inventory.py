"""What is known of the interfaces of all scopes: answers of providers in, changes out.

A plain object without I/O. A scope that could not be read keeps what it had; one that is gone has nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake.messages import in_messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ebpf_net.v1 import intake_pb2

    from cloud_collector.provider import Scope, Scopes

MOST_INTERFACES = 500_000


class Inventory:
    """The interfaces of all scopes, at most *most*; those beyond are not told of, and counted."""

    def __init__(self, most: int = MOST_INTERFACES) -> None:
        self._most = most
        self._scopes: dict[Scope, dict[str, intake_pb2.CloudInterface]] = {}
        self._untracked: dict[Scope, int] = {}
        # What the reducer was told, and is not told any more.
        self._told: dict[str, intake_pb2.CloudInterface] = {}

    def __len__(self) -> int:
        return sum(map(len, self._scopes.values()))

    @property
    def untracked(self) -> int:
        """How many interfaces of the scopes, as they were read last, found no room."""
        return sum(self._untracked.values())

    def replace(self, scope: Scope, interfaces: Iterable[intake_pb2.CloudInterface]) -> None:
        """Take all that a scope holds now."""
        found = {interface.id: interface for interface in interfaces if interface.id}
        room = self._most - (len(self) - len(self._scopes.get(scope, ())))
        self._untracked[scope] = max(0, len(found) - room)
        self._scopes[scope] = dict(list(found.items())[: max(0, room)])

    def keep(self, scopes: Scopes, provider: str) -> None:
        """Forget the scopes of *provider* that are not among *scopes*."""
        for scope in [each for each in self._scopes if each.provider == provider and not scopes.may_hold(each)]:
            del self._scopes[scope]
            self._untracked.pop(scope, None)

    def take_changes(self) -> Iterator[intake_pb2.Entities]:
        """Return messages with what is new, changed or gone since the call before."""
        present = self._present()
        changed = [interface for key, interface in present.items() if self._told.get(key) != interface]
        retired = [key for key in self._told if key not in present]
        self._told = present
        return in_messages(
            (("cloud_interfaces", interface) for interface in changed),
            (("retired_cloud_interfaces", key) for key in retired),
        )

    def snapshot(self) -> Iterator[intake_pb2.Entities]:
        """Return messages with all that `take_changes` told."""
        return in_messages(("cloud_interfaces", interface) for interface in self._told.values())

    def _present(self) -> dict[str, intake_pb2.CloudInterface]:
        """Return the interfaces by id; of one that several scopes hold the first is told."""
        present: dict[str, intake_pb2.CloudInterface] = {}
        for interfaces in self._scopes.values():
            for key, interface in interfaces.items():
                present.setdefault(key, interface)
        return present
