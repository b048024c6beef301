"""What names meant on this machine: the addresses of answers, as long as they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_ENTITIES

if TYPE_CHECKING:
    from kernel_collector.dns.answers import Answer

MOST_ADDRESSES = 100_000
# Caches say how much is left of a time to live, in whole seconds: the end of it is the same, but for the rounding.
_ROUNDING_S = 2


class NamedAddresses:
    """The name of each address, at most *most* addresses: the one that was answered longest ago goes first.

    Attributes:
        forgotten: how many addresses went though they still held.

    """

    def __init__(self, most: int = MOST_ADDRESSES) -> None:
        self.forgotten = 0
        self._most = most
        # By address, in the order of the answers: the name, and until when it holds.
        self._names: dict[bytes, tuple[str, int]] = {}
        self._new: list[intake_pb2.DnsName] = []

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, answer: Answer, now_s: int) -> None:
        """Take an answer; it is announced unless all of it is known, and for as long."""
        until_s = now_s + answer.ttl
        known = True
        for address in answer.addresses:
            name, before_s = self._names.pop(address, ("", 0))
            if name != answer.name or before_s + _ROUNDING_S < until_s:
                known = False
            self._names[address] = (answer.name, until_s)
        if not known:
            self._new.append(intake_pb2.DnsName(name=answer.name, addresses=answer.addresses, ttl=answer.ttl))
        while len(self._names) > self._most:
            _, before_s = self._names.pop(next(iter(self._names)))
            self.forgotten += before_s > now_s

    def take_changes(self) -> list[intake_pb2.DnsName]:
        """Return what is new since the call before, in the order of the answers."""
        new, self._new = self._new, []
        return new

    def forget(self, now_s: int) -> None:
        """Forget what does not hold any more."""
        self._names = {address: entry for address, entry in self._names.items() if entry[1] > now_s}

    def messages(self, now_s: int) -> list[intake_pb2.DnsName]:
        """Return what holds, with the time that is left, in the order of the answers: as many as a message may hold."""
        messages: dict[tuple[str, int], intake_pb2.DnsName] = {}
        for address, (name, until_s) in self._names.items():
            if until_s > now_s:
                message = messages.get((name, until_s))
                if message is None:
                    message = messages[name, until_s] = intake_pb2.DnsName(name=name, ttl=until_s - now_s)
                message.addresses.append(address)
        return list(messages.values())[-MOST_ENTITIES:]
