"""Reads BTF, the format of the kernel's types: structs as numpy dtypes, enums, and where a section's variables are.

The format: https://docs.kernel.org/bpf/btf.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")

_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM, _FORWARD = 1, 2, 3, 4, 5, 6, 7
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNCTION, _PROTOTYPE, _VARIABLE, _SECTION = 8, 9, 10, 11, 12, 13, 14, 15
_FLOAT, _DECLARATION_TAG, _TYPE_TAG, _ENUM64 = 16, 17, 18, 19
_ALIASES = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
# What follows the first 12 bytes of a type: bytes once, bytes an element.
_TRAILERS = dict.fromkeys((_POINTER, _FORWARD, *_ALIASES, _FUNCTION, _FLOAT), (0, 0)) | {
    _INT: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _PROTOTYPE: (0, 8),
    _VARIABLE: (4, 0),
    _SECTION: (0, 12),
    _DECLARATION_TAG: (4, 0),
    _ENUM64: (0, 12),
}
_SIGNED = 1


class BtfError(ValueError):
    """The BTF is damaged, or has not what was asked for."""


class Place(NamedTuple):
    """Where a variable is in its section, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    trailer: bytes


class Btf:
    """The types of *data*, the content of a section `.BTF`.

    Raises:
        BtfError: it is not BTF of this machine's byte order.

    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        if int.from_bytes(data[:2], "little") != _MAGIC:
            raise BtfError(f"BTF of another byte order, or none: it begins with {data[:2]!r}")
        try:
            _, _, _, header_length, *section = _HEADER.unpack_from(data)
            type_offset, type_length, string_offset, string_length = section
            body = data[header_length:]
            self._strings = body[string_offset : string_offset + string_length]
            self._types = self._parse(body[type_offset : type_offset + type_length])
        except (struct.error, KeyError) as error:
            raise BtfError(f"damaged BTF: {error!r}") from error

    def struct_dtype(self, name: str) -> np.dtype:
        """Return the numpy dtype of a struct of integers, arrays (of char as `S`, of anything else as `V`) and structs.

        Offsets and size are the compiler's. Members called `padding` are left out.

        Raises:
            BtfError: there is no such struct, or a member is of another type.

        """
        return self._struct_dtype(self._find(name, _STRUCT))

    def enum(self, name: str) -> dict[str, int]:
        """Return an enum's values by their names.

        Raises:
            BtfError: there is no such enum.

        """
        trailer = self._find(name, _ENUM).trailer
        return {self._name(name_offset): value for name_offset, value in struct.iter_unpack("<Ii", trailer)}

    def variables(self, section: str) -> dict[str, Place]:
        """Return where each variable of a section is.

        Raises:
            BtfError: there is no such section.

        """
        entries = struct.iter_unpack("<III", self._find(section, _SECTION).trailer)
        return {self._types[type_id].name: Place(offset, size) for type_id, offset, size in entries}

    def _parse(self, section: bytes) -> list[_Type]:
        types = [_Type("void", 0, 0, b"")]
        at = 0
        while at < len(section):
            name_offset, info, size_or_type = _TYPE.unpack_from(section, at)
            kind, elements = info >> 24 & 0x1F, info & 0xFFFF
            once, each = _TRAILERS[kind]
            at += _TYPE.size
            end = at + once + elements * each
            types.append(_Type(self._name(name_offset), kind, size_or_type, section[at:end]))
            at = end
        return types

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.find(b"\0", offset)].decode("ascii", "replace")

    def _find(self, name: str, kind: int) -> _Type:
        for candidate in self._types:
            if candidate.kind == kind and candidate.name == name:
                return candidate
        raise BtfError(f"the BTF has no {({_STRUCT: 'struct', _ENUM: 'enum', _SECTION: 'section'})[kind]} {name}")

    def _resolve(self, type_id: int) -> _Type:
        found = self._types[type_id]
        while found.kind in _ALIASES:
            found = self._types[found.size_or_type]
        return found

    def _struct_dtype(self, found: _Type) -> np.dtype:
        members = [
            (self._name(name_offset), self._dtype(type_id), bits // 8)
            for name_offset, type_id, bits in struct.iter_unpack("<III", found.trailer)
        ]
        names, formats, offsets = zip(*(member for member in members if member[0] != "padding"), strict=True)
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": found.size_or_type})

    def _dtype(self, type_id: int) -> np.dtype:
        found = self._resolve(type_id)
        if found.kind == _INT:
            signed = struct.unpack("<I", found.trailer)[0] >> 24 & _SIGNED
            return np.dtype(f"<{'i' if signed else 'u'}{found.size_or_type}")
        if found.kind == _STRUCT:
            return self._struct_dtype(found)
        if found.kind == _ARRAY:
            element_id, _, length = struct.unpack("<III", found.trailer)
            element = self._resolve(element_id)
            return np.dtype(f"{'S' if element.name == 'char' else 'V'}{length * self._dtype(element_id).itemsize}")
        raise BtfError(f"a record may hold integers, arrays of them and structs, not {found.name or 'an unnamed type'}")
