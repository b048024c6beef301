"""BTF as clang writes it, and as it may arrive."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import Btf, BtfError, Place
from kernel_collector.objects import OBJECTS

INT, ARRAY, STRUCT, ENUM, TYPEDEF, VARIABLE, SECTION, FLOAT = 1, 3, 4, 6, 8, 14, 15, 16


class Types:
    """Writes BTF."""

    def __init__(self):
        self.strings, self.types, self.count = b"\0", b"", 0

    def add(self, name, kind, size_or_type, *trailer, elements=0):
        offset = len(self.strings)
        self.strings += name.encode() + b"\0"
        self.types += struct.pack(f"<III{len(trailer)}I", offset, kind << 24 | elements, size_or_type, *trailer)
        self.count += 1
        return self.count

    def name(self, text):
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def data(self):
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


@pytest.fixture
def types():
    return Types()


def record(types, *members):
    trailer = [word for name, type_id, offset in members for word in (types.name(name), type_id, offset * 8)]
    types.add("record", STRUCT, 40, *trailer, elements=len(members))
    return Btf(types.data()).struct_dtype("record")


def test_structs_become_dtypes_with_the_compilers_offsets(types):
    u32 = types.add("unsigned int", INT, 4, 32)
    s64 = types.add("long long", INT, 8, 64 | 1 << 24)
    alias = types.add("u32", TYPEDEF, u32)
    char, byte = types.add("char", INT, 1, 8 | 1 << 24), types.add("unsigned char", INT, 1, 8)
    name, address = types.add("", ARRAY, 0, char, u32, 10), types.add("", ARRAY, 0, byte, u32, 4)
    dtype = record(types, ("a", alias, 0), ("padding", u32, 4), ("b", s64, 8), ("c", name, 16), ("d", address, 26))
    assert dtype == np.dtype(
        {
            "names": ["a", "b", "c", "d"],
            "formats": ["<u4", "<i8", "S10", "V4"],
            "offsets": [0, 8, 16, 26],
            "itemsize": 40,
        }
    )


def test_a_struct_in_a_struct(types):
    u32 = types.add("unsigned int", INT, 4, 32)
    inner = types.add("inner", STRUCT, 8, types.name("x"), u32, 0, types.name("y"), u32, 32, elements=2)
    dtype = record(types, ("a", u32, 0), ("b", inner, 8))
    assert dtype.fields["b"] == (np.dtype([("x", "<u4"), ("y", "<u4")]), 8)


def test_a_member_that_numpy_cannot_hold_is_refused(types):
    real = types.add("double", FLOAT, 8)
    with pytest.raises(BtfError, match="not double"):
        record(types, ("a", real, 0))


def test_enums_and_variables(types):
    u32 = types.add("unsigned int", INT, 4, 32)
    types.add("kind", ENUM, 4, types.name("FIRST"), 0, types.name("LAST"), 2**32 - 1, elements=2)
    variable = types.add("lost", VARIABLE, u32, 1)
    types.add(".bss", SECTION, 0, variable, 16, 4, elements=1)
    btf = Btf(types.data())
    assert btf.enum("kind") == {"FIRST": 0, "LAST": -1}
    assert btf.variables(".bss") == {"lost": Place(16, 4)}


@pytest.mark.parametrize("ask", [Btf.struct_dtype, Btf.enum, Btf.variables])
def test_what_is_not_there_is_named(types, ask):
    with pytest.raises(BtfError, match=r"has no \w+ missing"):
        ask(Btf(types.data()), "missing")


def test_damaged_btf_is_an_error():
    whole = BpfObject(OBJECTS / "tcp.bpf.o").btf.data
    Btf(whole)
    with pytest.raises(BtfError, match="another byte order"):
        Btf(whole[1::-1] + whole[2:])
    with pytest.raises(BtfError, match="damaged"):
        Btf(whole[:100])
    with pytest.raises(BtfError, match="damaged"):
        Btf(whole[:2])
