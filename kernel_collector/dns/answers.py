"""Answers of the DNS as they come from the network (RFC 1035 4): the name that was asked for, and its addresses.

Names are read by dnspython, which follows compression backwards only, so that no message leads in circles. Of the rest
only what leads to addresses is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dns.exception import DNSException
from dns.wire import Parser

from intake.addresses import V4_PREFIX
from intake.limits import LONGEST_LABEL

if TYPE_CHECKING:
    from dns.name import Name

A, CNAME, AAAA = 1, 5, 28
_IN = 1
_ADDRESS_BYTES = {A: 4, AAAA: 16}
_COUNTS_AT = 4
MOST_ALIASES = 16
LONGEST_TTL = 7 * 24 * 3600
_SIGNED = 1 << 31


class Answer(NamedTuple):
    """The addresses, each of 16 bytes and once, of the name that was asked for; for how many seconds it holds."""

    name: str
    addresses: tuple[bytes, ...]
    ttl: int


class MalformedAnswerError(ValueError):
    """A message that is no answer; the text says why."""


class _Records:
    """The records of an answer, by their owner in lower case."""

    def __init__(self) -> None:
        self._aliases: dict[bytes, tuple[bytes, int]] = {}
        self._addresses: dict[bytes, list[tuple[bytes, int]]] = {}

    def read(self, parser: Parser) -> None:
        """Read the next record."""
        owner = _key(parser.get_name(decompress=True))
        kind, of_class, ttl, length = parser.get_struct("!HHIH")
        with parser.restrict_to(length):
            if of_class == _IN and kind == CNAME:
                self._aliases.setdefault(owner, (_key(parser.get_name(decompress=True)), _ttl(ttl)))
            elif of_class == _IN and length == _ADDRESS_BYTES.get(kind):
                address = parser.get_bytes(length)
                mapped = V4_PREFIX + address if kind == A else address
                self._addresses.setdefault(owner, []).append((mapped, _ttl(ttl)))
            else:
                parser.get_bytes(length)

    def of(self, name: bytes) -> tuple[tuple[bytes, ...], int]:
        """Return the addresses that *name* has through whatever aliases, and the least time to live on the way."""
        ttls: list[int] = []
        for _ in range(MOST_ALIASES):
            if found := self._addresses.get(name):
                return tuple(dict.fromkeys(address for address, _ in found)), min([*ttls, *(ttl for _, ttl in found)])
            if name not in self._aliases:
                break
            name, ttl = self._aliases[name]
            ttls.append(ttl)
        return (), 0


def read_answer(message: bytes, *, whole: bool = True) -> Answer | None:
    """Return what an answer says; None if the name that was asked for has no addresses in it.

    Args:
        message: without the length that is before it in TCP.
        whole: whether it is not cut off; of one that is, the records count that are there.

    Raises:
        MalformedAnswerError: it is no message, or has not the records that it says it has.

    """
    records = _Records()
    parser = Parser(message)
    try:
        parser.seek(_COUNTS_AT)
        questions, answers = parser.get_struct("!HHxxxx")
        if questions != 1:
            raise MalformedAnswerError(f"{questions} questions")
        asked = parser.get_name(decompress=True)
        parser.get_struct("!HH")
    except DNSException as error:
        raise MalformedAnswerError(repr(error)) from error
    try:
        for _ in range(answers):
            records.read(parser)
    except DNSException as error:
        if whole:
            raise MalformedAnswerError(repr(error)) from error
    addresses, ttl = records.of(_key(asked))
    return Answer(_text(asked), addresses, ttl) if addresses else None


def _key(name: Name) -> bytes:
    """Return it in lower case: the bytes that say a label's length, up to 63, are no letters."""
    return b"".join(bytes([len(label)]) + label for label in name.labels).lower()


def _text(name: Name) -> str:
    """Return it in lower case and printable ASCII, all else as backslash and number; a long one is cut at the front."""
    return name.to_text(omit_final_dot=True).lower()[-LONGEST_LABEL:]


def _ttl(ttl: int) -> int:
    return 0 if ttl >= _SIGNED else min(ttl, LONGEST_TTL)  # RFC 2181 8
