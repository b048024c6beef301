"""The wire format of Protocol Buffers, as far as it is written without messages: in columns, or a record at a time.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

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
    return b"".join(field(field_number, field(1, name.encode()), field(2, _any_value(value))) for name, value in labels)


def _any_value(value: AttributeValue) -> bytes:
    """Return the fields of an AnyValue: string_value or bool_value."""
    return bytes([2 << 3, value]) if isinstance(value, bool) else field(1, value.encode(errors="replace"))
