"""Loads BPF objects with the system's libbpf, by ctypes: programs, maps, iterators, and what programs cost.

Every error carries what libbpf and the kernel's verifier said.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import mmap
import os
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self
from weakref import WeakSet

import numpy as np

from kernel_collector.btf import Btf, BtfError
from kernel_collector.structured import concatenated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SONAME = "libbpf.so.1"
BATCH_ENTRIES = 8192  # of a map at once: more than can be in one of its buckets
ITERATOR_READ_BYTES = 8 * mmap.PAGESIZE  # the most that bpf_seq_read() gives at once

_P, _I, _U32, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_P, [_P]),
    "libbpf_version_string": (_S, []),
    "bpf_object__open_file": (_P, [_S, _P]),
    "bpf_object__btf": (_P, [_P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__next_program": (_P, [_P, _P]),
    "bpf_object__find_program_by_name": (_P, [_P, _S]),
    "bpf_object__find_map_by_name": (_P, [_P, _S]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_program__name": (_S, [_P]),
    "bpf_program__set_autoload": (_I, [_P, ctypes.c_bool]),
    "bpf_program__attach": (_P, [_P]),
    "bpf_program__attach_cgroup": (_P, [_P, _I]),
    "bpf_program__attach_iter": (_P, [_P, _P]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_link__fd": (_I, [_P]),
    "bpf_link__destroy": (_I, [_P]),
    "bpf_map__name": (_S, [_P]),
    "bpf_map__set_autocreate": (_I, [_P, ctypes.c_bool]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__key_size": (_U32, [_P]),
    "bpf_map__max_entries": (_U32, [_P]),
    "bpf_map__initial_value": (_P, [_P, _P]),
    "bpf_map_update_elem": (_I, [_I, _S, _S, ctypes.c_uint64]),
    "bpf_map__type": (_I, [_P]),
    "bpf_map__value_size": (_U32, [_P]),
    "bpf_map_delete_batch": (_I, [_I, _P, _P, _P]),
    "bpf_map_lookup_batch": (_I, [_I, _P, _P, _P, _P, _P, _P]),
    "bpf_map_lookup_and_delete_batch": (_I, [_I, _P, _P, _P, _P, _P, _P]),
    "bpf_enable_stats": (_I, [_I]),
    "bpf_iter_create": (_I, [_I]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, _P]),
    "btf__raw_data": (_P, [_P, _P]),
    "btf__load_vmlinux_btf": (_P, []),
    "btf__find_by_name_kind": (_I, [_P, _S, _U32]),
    "btf__type_by_id": (_P, [_P, _U32]),
    "btf__name_by_offset": (_S, [_P, _U32]),
    "btf__free": (None, [_P]),
}
_WARNING = 0
_KIND_ENUM, _TYPE_WORDS = 6, 3  # include/uapi/linux/btf.h: an enum's values follow struct btf_type, each two words
_OWN_ERRORS = 4000  # from here on libbpf's own: what it prints tells them
_HASH_MAPS = {1, 9}  # BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH
_STATS_RUN_TIME = 0
_Printer = ctypes.CFUNCTYPE(_I, _I, _P, _P)
_said: deque[str] = deque(maxlen=100)


class LibbpfError(OSError):
    """An operation of libbpf or of the kernel failed; the message has the line of what libbpf said that tells why.

    Attributes:
        said: the last lines that libbpf printed, the verifier's as well.

    """

    def __init__(self, number: int, what: str, said: tuple[str, ...] = ()) -> None:
        reason = f": {os.strerror(number)}" if 0 < number < _OWN_ERRORS else ""
        cause = _cause(said)
        super().__init__(number, f"{what}{reason}{f' ({cause})' if cause else ''}")
        self.said = said

    def __str__(self) -> str:
        return str(self.strerror)


class ProgramCost(NamedTuple):
    """What a program cost: counted by the kernel while the sysctl kernel.bpf_stats_enabled is 1."""

    run_count: int
    run_time_ns: int


class MapFill(NamedTuple):
    """How many entries a hash map has, and how many it takes."""

    entries: int
    most: int


class BpfObject:
    """A compiled object file: open from the start, its programs in the kernel from `load` to `close`.

    Attributes:
        name: of the file, without its ending.
        opened: all that are open.

    Raises:
        LibbpfError: there is no libbpf, or it cannot read the file.

    """

    opened: ClassVar[WeakSet[BpfObject]] = WeakSet()

    def __init__(self, path: Path) -> None:
        self._lib = library()
        self._name = path.name
        self.name = path.name.partition(".")[0]
        self._links: list[int] = []
        self._pointer = _call(f"cannot open {path}", self._lib.bpf_object__open_file, os.fsencode(path), None)
        btf = _call(f"{path} has no BTF", self._lib.bpf_object__btf, self._pointer)
        size = ctypes.c_uint32()
        data = _call(f"{path} has no BTF", self._lib.btf__raw_data, btf, ctypes.byref(size))
        self.btf = Btf(ctypes.string_at(data, size.value))
        self.opened.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and unload everything; a second call does nothing."""
        while self._links:
            self._lib.bpf_link__destroy(self._links.pop())
        if self._pointer:
            self._lib.bpf_object__close(self._pointer)
            self._pointer = 0
            self.opened.discard(self)

    def set_constant(self, name: str, value: bytes) -> None:
        """Set a `const volatile` global variable, before `load`.

        Raises:
            BtfError: there is none of this name and size.

        """
        place = self.btf.variables(".rodata").get(name)
        if place is None or place.size != len(value):
            raise BtfError(f"{self._name} has no constant {name} of {len(value)} bytes")
        size = ctypes.c_size_t()
        start = _call("no .rodata", self._lib.bpf_map__initial_value, self._map(".rodata"), ctypes.byref(size))
        ctypes.memmove(start + place.offset, value, place.size)

    def leave_out(self, unwanted: Callable[[str], bool]) -> None:
        """Have `load` neither make the maps nor load the programs whose names are *unwanted*.

        What is loaded may refer to such a map only where the verifier sees that it never runs.
        """
        for program in self._each(self._lib.bpf_object__next_program):
            if unwanted(self._lib.bpf_program__name(program).decode()):
                self._lib.bpf_program__set_autoload(program, False)  # noqa: FBT003
        for map_ in self._each(self._lib.bpf_object__next_map):
            if unwanted(self._lib.bpf_map__name(map_).decode()):
                self._lib.bpf_map__set_autocreate(map_, False)  # noqa: FBT003

    def load(self, only: str | None = None) -> None:
        """Make the maps and load the programs, or *only* the named one.

        Raises:
            LibbpfError: the kernel refused, or there is no such program.

        """
        if only is not None:
            chosen = self._program(only)
            for program in self._each(self._lib.bpf_object__next_program):
                self._lib.bpf_program__set_autoload(program, program == chosen)
        _call(f"cannot load {self._name}", self._lib.bpf_object__load, self._pointer)

    def attach(self, program: str, cgroup: int | None = None) -> int:
        """Attach a program to what its section names; return the link's file descriptor, which this object owns.

        Args:
            program: its name.
            cgroup: a file descriptor of the cgroup for which the program is, if it is one for cgroups.

        Raises:
            LibbpfError: the kernel refused, or there is no such program.

        """
        what = f"cannot attach {program} of {self._name}"
        if cgroup is None:
            link = _call(what, self._lib.bpf_program__attach, self._program(program))
        else:
            link = _call(what, self._lib.bpf_program__attach_cgroup, self._program(program), cgroup)
        self._links.append(link)
        return _call(what, self._lib.bpf_link__fd, link)

    def attach_to_map(self, program: str, name: str) -> int:
        """Attach an iterator over the elements of a map; return the link's file descriptor, which this object owns.

        Raises:
            LibbpfError: the kernel refused, or there is no such program or map.

        """
        what = f"cannot attach {program} of {self._name}"
        map_fd = ctypes.c_uint32(self.map_fd(name))
        options = _IteratorOptions(ctypes.sizeof(_IteratorOptions), ctypes.addressof(map_fd), ctypes.sizeof(map_fd))
        link = _call(what, self._lib.bpf_program__attach_iter, self._program(program), ctypes.byref(options))
        self._links.append(link)
        return _call(what, self._lib.bpf_link__fd, link)

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map, which this object owns."""
        return _call(f"no file descriptor of {name}", self._lib.bpf_map__fd, self._map(name))

    def map_size(self, name: str) -> int:
        """Return the most entries of a map; for a ring buffer its bytes."""
        return int(self._lib.bpf_map__max_entries(self._map(name)))

    def update(self, name: str, key: bytes, value: bytes) -> None:
        """Set an element of a map.

        Raises:
            LibbpfError: the kernel refused.

        """
        _call(f"cannot set an element of {name}", self._lib.bpf_map_update_elem, self.map_fd(name), key, value, 0)

    def delete(self, name: str, keys: np.ndarray) -> np.ndarray:
        """Delete elements of a map; return for each key whether it was there still.

        Raises:
            LibbpfError: the kernel refused.

        """
        there = np.ones(len(keys), bool)
        start, count = 0, ctypes.c_uint32()
        while start < len(keys):
            some = np.ascontiguousarray(keys[start:])
            count.value = len(some)
            result = self._lib.bpf_map_delete_batch(self.map_fd(name), some.ctypes.data, ctypes.byref(count), None)
            if result == 0:
                break
            if result != -errno.ENOENT:
                raise LibbpfError(-result, f"cannot delete elements of {name}")
            there[start + count.value] = False
            start += count.value + 1
        return there

    def read(self, name: str, key: np.dtype, value: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys and values of a hash map; of what changes meanwhile some is there and some is not.

        Raises:
            LibbpfError: the kernel refused.

        """
        return self._elements(name, key, value, self._lib.bpf_map_lookup_batch)

    def empty(self, name: str, key: np.dtype, value: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys and values of a hash map in which no program counts any more, and delete them.

        Raises:
            LibbpfError: the kernel refused.

        """
        return self._elements(name, key, value, self._lib.bpf_map_lookup_and_delete_batch)

    def _elements(
        self, name: str, key: np.dtype, value: np.dtype, batch: Callable[..., int]
    ) -> tuple[np.ndarray, np.ndarray]:
        what, descriptor = f"cannot read {name}", self.map_fd(name)
        keys, values = [np.empty(0, key)], [np.empty(0, value)]
        place, count = ctypes.c_uint32(), ctypes.c_uint32()
        done = False
        while not done:
            some_keys, some_values = np.empty(BATCH_ENTRIES, key), np.empty(BATCH_ENTRIES, value)
            count.value = BATCH_ENTRIES
            result = batch(
                descriptor,
                ctypes.byref(place) if len(keys) > 1 else None,
                ctypes.byref(place),
                some_keys.ctypes.data,
                some_values.ctypes.data,
                ctypes.byref(count),
                None,
            )
            done = result == -errno.ENOENT  # that was all
            if result and not done:
                raise LibbpfError(-result, what)
            keys.append(some_keys[: count.value])
            values.append(some_values[: count.value])
        return concatenated(keys), concatenated(values)

    def variables(self) -> Mapping[str, np.ndarray]:
        """Return the global variables in `.bss`, after `load`: each an array of one unsigned integer.

        They are the memory that the programs read and write, and stay mapped as long as one of them is referred to.
        """
        places = self.btf.variables(".bss")
        memory = mmap.mmap(self.map_fd(".bss"), mmap.PAGESIZE)
        return {name: np.frombuffer(memory, f"<u{place.size}", 1, place.offset) for name, place in places.items()}

    def cost(self, program: str) -> ProgramCost:
        """Return what a loaded program cost so far.

        Raises:
            LibbpfError: the kernel refused.

        """
        info = _ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        descriptor = _call("the program is not loaded", self._lib.bpf_program__fd, self._program(program))
        what = f"cannot read the statistics of {program}"
        _call(what, self._lib.bpf_obj_get_info_by_fd, descriptor, ctypes.byref(info), ctypes.byref(size))
        return ProgramCost(info.run_cnt, info.run_time_ns)

    def costs(self) -> dict[str, ProgramCost]:
        """Return what each program that is loaded cost so far."""
        programs = [each for each in self._each(self._lib.bpf_object__next_program) if _is_open(self._lib, each)]
        names = [self._lib.bpf_program__name(program).decode() for program in programs]
        return {name: self.cost(name) for name in names}

    def fills(self) -> dict[str, MapFill]:
        """Return how full each hash map is: all its entries are read for it."""
        return {
            self._lib.bpf_map__name(map_).decode(): MapFill(self._count(map_), self._lib.bpf_map__max_entries(map_))
            for map_ in self._each(self._lib.bpf_object__next_map)
            if self._lib.bpf_map__type(map_) in _HASH_MAPS and self._lib.bpf_map__fd(map_) >= 0
        }

    def _count(self, map_: int) -> int:
        keys = np.empty(BATCH_ENTRIES * self._lib.bpf_map__key_size(map_), np.uint8)
        values = np.empty(BATCH_ENTRIES * self._lib.bpf_map__value_size(map_), np.uint8)
        descriptor = self._lib.bpf_map__fd(map_)
        place, count = ctypes.c_uint32(), ctypes.c_uint32()
        total, result, first = 0, 0, True
        while not result:
            count.value = BATCH_ENTRIES
            before = None if first else ctypes.byref(place)
            buffers = (keys.ctypes.data, values.ctypes.data)
            result = self._lib.bpf_map_lookup_batch(
                descriptor, before, ctypes.byref(place), *buffers, ctypes.byref(count), None
            )
            if not result or result == -errno.ENOENT:  # that was all
                total += count.value
            first = False
        return total

    def _each(self, following: Callable[[int, int | None], int | None]) -> Iterator[int]:
        found = following(self._pointer, None)
        while found:
            yield found
            found = following(self._pointer, found)

    def _program(self, name: str) -> int:
        what = f"{self._name} has no program {name}"
        return _call(what, self._lib.bpf_object__find_program_by_name, self._pointer, name.encode())

    def _map(self, name: str) -> int:
        what = f"{self._name} has no map {name}"
        return _call(what, self._lib.bpf_object__find_map_by_name, self._pointer, name.encode())


def count_runs() -> int:
    """Have the kernel count what all BPF programs cost, as long as the file descriptor that is returned is open.

    Raises:
        LibbpfError: CAP_SYS_ADMIN is missing.

    """
    return _call("the cost of programs is not counted", library().bpf_enable_stats, _STATS_RUN_TIME)


def open_iterator(link: int) -> int:
    """Return a file descriptor from which one run of the iterator attached by *link* is read; the caller closes it.

    Raises:
        LibbpfError: the kernel refused.

    """
    return _call("cannot open an iterator", library().bpf_iter_create, link)


def read_iterator(iterator: int) -> bytes:
    """Run an iterator to its end, close it, and return what its program wrote.

    Raises:
        OSError: the kernel stopped it.

    """
    try:
        return b"".join(iter(lambda: os.read(iterator, ITERATOR_READ_BYTES), b""))
    finally:
        os.close(iterator)


def kernel_enum(name: str) -> dict[str, int]:
    """Return the values of an enum of the running kernel by their names; none where it has no such enum.

    Raises:
        LibbpfError: the kernel's types cannot be read.

    """
    lib = library()
    btf = _call("cannot read the kernel's BTF", lib.btf__load_vmlinux_btf)
    try:
        number = lib.btf__find_by_name_kind(btf, name.encode(), _KIND_ENUM)
        if number < 0:
            return {}
        head = ctypes.cast(lib.btf__type_by_id(btf, number), ctypes.POINTER(ctypes.c_uint32))
        values = head[_TYPE_WORDS : _TYPE_WORDS + 2 * (head[1] & 0xFFFF)]
        return {
            lib.btf__name_by_offset(btf, offset).decode(): value
            for offset, value in zip(values[::2], values[1::2], strict=True)
        }
    finally:
        lib.btf__free(btf)


@functools.cache
def library() -> Any:
    """Return libbpf.

    Raises:
        LibbpfError: it is not installed.

    """
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise LibbpfError(0, f"{SONAME} is missing ({error}): apt-get install libbpf1") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(_print)
    return lib


def _is_open(lib: Any, program: int) -> bool:
    return bool(lib.bpf_program__fd(program) >= 0)


class _ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info (include/uapi/linux/bpf.h), as far as the run-time counters."""

    _fields_ = (
        ("before", ctypes.c_ubyte * 192),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
    )


class _IteratorOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts (bpf/libbpf.h)."""

    _fields_ = (("size", ctypes.c_size_t), ("link_info", _P), ("link_info_size", _U32))


def _keep(level: int, form: int, arguments: int) -> int:
    """Keep what libbpf warns of; a va_list is passed by address on amd64 and on arm64."""
    if level == _WARNING:
        text = ctypes.create_string_buffer(1 << 16)
        ctypes.CDLL(None).vsnprintf(text, ctypes.c_size_t(len(text)), _P(form), _P(arguments))
        _said.extend(text.value.decode(errors="replace").splitlines())
    return 0


_print = _Printer(_keep)  # libbpf holds its address


def _call(what: str, function: Callable[..., int | None], *arguments: Any) -> int:
    """Call a function of libbpf that tells failure by NULL and errno, or by a negative errno."""
    _said.clear()
    result = function(*arguments)
    if result is None:
        raise LibbpfError(ctypes.get_errno(), what, tuple(_said))
    if result < 0:
        raise LibbpfError(-result, what, tuple(_said))
    return result


def _cause(said: tuple[str, ...]) -> str:
    """Return the line that tells most: the verifier's last before its totals, else libbpf's first but its warning."""
    for line, following in itertools.pairwise(said):
        if following.startswith("processed "):
            return line
    told = (line.removeprefix("libbpf: ") for line in said if "RLIMIT_MEMLOCK (err" not in line)
    return next(told, "")
