"""Replaces a function that a shared library imports, in that library alone: in its table of addresses (ELF)."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Of <elf.h>: tags of the dynamic section, and the flags that say that addresses are read-only after the start.
_RELOCATIONS_BYTES, _NAMES, _SYMBOLS, _RELOCATIONS, _FLAGS, _FLAGS_1 = 2, 5, 6, 23, 30, 0x6FFFFFFB
_RELOCATIONS_KIND, _WITH_ADDENDS = 20, 7
_BIND_NOW, _NOW = 8, 1
_ENTRY_BYTES, _VALUE_AT = 16, 8
_SYMBOL_BYTES = 24  # the first four are where its name is among the names
_LINK_MAP = 2  # RTLD_DI_LINKMAP of <dlfcn.h>


class _LinkMap(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("name", ctypes.c_char_p), ("dynamic", ctypes.c_size_t))


class _Relocation(ctypes.Structure):
    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
        ("symbol", ctypes.c_uint32),
        ("addend", ctypes.c_int64),
    )


def replace_imported(path: str, name: str, substitute: Any) -> bool:
    """Have the loaded library at *path* call *substitute* by *name*; return whether that was possible.

    It is where the machine has 64 bits and the library is linked so that functions are found when they are first
    called, which leaves the table of their addresses writable.

    Args:
        path: of the library.
        name: of the function.
        substitute: a function of a C library with the same arguments, as ctypes has it; it stays loaded.

    """
    dlinfo = getattr(ctypes.CDLL(None), "dlinfo", None)
    if dlinfo is None or sys.maxsize >> 32 == 0 or sys.byteorder != "little":
        return False
    found = ctypes.POINTER(_LinkMap)()
    if dlinfo(ctypes.c_void_p(ctypes.CDLL(path)._handle), _LINK_MAP, ctypes.byref(found)):  # noqa: SLF001 - dlopen(3)'s
        return False
    library = found.contents
    dynamic = _dynamic(library.dynamic)
    if not _has_table(dynamic, library.base):
        return False
    count = dynamic[_RELOCATIONS_BYTES] // ctypes.sizeof(_Relocation)
    for relocation in (_Relocation * count).from_address(dynamic[_RELOCATIONS]):
        symbol = dynamic[_SYMBOLS] + relocation.symbol * _SYMBOL_BYTES
        if ctypes.string_at(dynamic[_NAMES] + ctypes.c_uint32.from_address(symbol).value) == name.encode():
            address = ctypes.c_void_p.from_address(library.base + relocation.offset)
            address.value = ctypes.cast(substitute, ctypes.c_void_p).value
            return True
    return False


def _has_table(dynamic: dict[int, int], base: int) -> bool:
    """Tell whether there is a table that is written when functions are first called, of the layout known here."""
    if dynamic.get(_FLAGS, 0) & _BIND_NOW or dynamic.get(_FLAGS_1, 0) & _NOW:
        return False
    if _RELOCATIONS not in dynamic or dynamic.get(_RELOCATIONS_KIND) != _WITH_ADDENDS:
        return False
    # Less where the linker leaves the section as it is: RISC-V, MIPS.
    return min(dynamic[each] for each in (_NAMES, _SYMBOLS, _RELOCATIONS)) >= base


def _dynamic(address: int) -> dict[int, int]:
    """Return the dynamic section by tag; on most processors the linker has made its offsets addresses."""
    entries = {}
    while tag := ctypes.c_int64.from_address(address).value:
        entries[tag] = ctypes.c_uint64.from_address(address + _VALUE_AT).value
        address += _ENTRY_BYTES
    return entries
