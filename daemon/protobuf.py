"""The wire format of Protocol Buffers, as far as it is written without messages: in columns, or a record at a time.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH_DELIMITED, FIXED64 = 2, 1

AttributeValue = str | bool


def varint(number: int) -> bytes:
    """Return a number in seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def head(number: int, length: int) -> bytes:
    """Return what stands before *length* bytes of a length-delimited field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)


def field(number: int, *content: bytes) -> bytes:
    """Return a length-delimited field of a message."""
    return b"".join((head(number, sum(map(len, content))), *content))


def attributes(field_number: int, labels: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return labels as the repeated KeyValue field of a message; what is no Unicode text becomes `?`."""
    tag = varint(field_number << 3 | LENGTH_DELIMITED)
    return tag.join((b"", *[_key_value(name, value) for name, value in labels]))


def _key_value(name: str, value: AttributeValue) -> bytes:
    """Return a KeyValue after its length; its value is an AnyValue's string_value or bool_value."""
    if isinstance(value, bool):
        content = field(1, name.encode()) + field(2, bytes([2 << 3, value]))
        return varint(len(content)) + content
    text = value.encode(errors="replace")
    return _before_text(name, len(text)) + text


@functools.lru_cache(1 << 14)  # names are few, and lengths have a bound
def _before_text(name: str, length: int) -> bytes:
    """Return what stands before a text of *length* bytes that is the value of *name*."""
    text_head = head(1, length)
    before = field(1, name.encode()) + head(2, len(text_head) + length) + text_head
    return varint(len(before) + length) + before
