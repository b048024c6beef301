"""BPF objects: their programs, maps, variables, and what these cost and hold."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakSet

import numpy as np

from kernel_collector.bpf.btf import Btf, BtfError
from kernel_collector.bpf.libbpf import LibbpfError, call, library
from kernel_collector.closing import Closing
from kernel_collector.columns.structured import concatenated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

BATCH_ENTRIES = 8192  # of a map at once: more than can be in one of its buckets

_HASH_MAPS = {1, 9}  # BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH


class ProgramCost(NamedTuple):
    """What a program cost: counted by the kernel while the sysctl kernel.bpf_stats_enabled is 1."""

    run_count: int
    run_time_ns: int


class MapFill(NamedTuple):
    """How many entries a hash map has, and how many it takes."""

    entries: int
    most: int


class BpfObject(Closing):
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
        self._pointer = call(f"cannot open {path}", self._lib.bpf_object__open_file, os.fsencode(path), None)
        btf = call(f"{path} has no BTF", self._lib.bpf_object__btf, self._pointer)
        size = ctypes.c_uint32()
        data = call(f"{path} has no BTF", self._lib.btf__raw_data, btf, ctypes.byref(size))
        self.btf = Btf(ctypes.string_at(data, size.value))
        self.opened.add(self)

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
        start = call("no .rodata", self._lib.bpf_map__initial_value, self._map(".rodata"), ctypes.byref(size))
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
        call(f"cannot load {self._name}", self._lib.bpf_object__load, self._pointer)

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
            link = call(what, self._lib.bpf_program__attach, self._program(program))
        else:
            link = call(what, self._lib.bpf_program__attach_cgroup, self._program(program), cgroup)
        self._links.append(link)
        return call(what, self._lib.bpf_link__fd, link)

    def attach_to_map(self, program: str, name: str) -> int:
        """Attach an iterator over the elements of a map; return the link's file descriptor, which this object owns.

        Raises:
            LibbpfError: the kernel refused, or there is no such program or map.

        """
        what = f"cannot attach {program} of {self._name}"
        map_fd = ctypes.c_uint32(self.map_fd(name))
        options = _IteratorOptions(ctypes.sizeof(_IteratorOptions), ctypes.addressof(map_fd), ctypes.sizeof(map_fd))
        link = call(what, self._lib.bpf_program__attach_iter, self._program(program), ctypes.byref(options))
        self._links.append(link)
        return call(what, self._lib.bpf_link__fd, link)

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map, which this object owns."""
        return call(f"no file descriptor of {name}", self._lib.bpf_map__fd, self._map(name))

    def map_size(self, name: str) -> int:
        """Return the most entries of a map; for a ring buffer its bytes."""
        return int(self._lib.bpf_map__max_entries(self._map(name)))

    def update(self, name: str, key: bytes, value: bytes) -> None:
        """Set an element of a map.

        Raises:
            LibbpfError: the kernel refused.

        """
        call(f"cannot set an element of {name}", self._lib.bpf_map_update_elem, self.map_fd(name), key, value, 0)

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

    def empty(self, name: str, key: np.dtype, value: np.dtype, expected: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys and values of a hash map in which no program counts any more, and delete them.

        Where no more than *expected* are in it, they are not copied.

        Raises:
            LibbpfError: the kernel refused.

        """
        return self._elements(name, key, value, self._lib.bpf_map_lookup_and_delete_batch, expected)

    def portions(self, name: str, key: np.dtype, value: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield what `empty` returns, at most BATCH_ENTRIES at a time.

        Raises:
            LibbpfError: the kernel refused.

        """
        place, done = ctypes.c_uint32(), False
        first = True
        while not done:
            arrays = [np.empty(BATCH_ENTRIES, dtype) for dtype in (key, value)]
            count, done = self._batch(name, self._lib.bpf_map_lookup_and_delete_batch, place, arrays, first=first)
            first = False
            keys, values = arrays
            yield keys[:count], values[:count]

    def _elements(
        self, name: str, key: np.dtype, value: np.dtype, batch: Callable[..., int], expected: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        arrays = [np.empty(expected + BATCH_ENTRIES, dtype) for dtype in (key, value)]
        place, filled, done = ctypes.c_uint32(), 0, False
        while not done:
            if filled + BATCH_ENTRIES > len(arrays[0]):
                arrays = [concatenated([array, np.empty(len(array), array.dtype)]) for array in arrays]
            count, done = self._batch(name, batch, place, [array[filled:] for array in arrays], first=not filled)
            filled += count
        keys, values = arrays
        return keys[:filled], values[:filled]

    def _batch(
        self, name: str, batch: Callable[..., int], place: ctypes.c_uint32, arrays: list[np.ndarray], *, first: bool
    ) -> tuple[int, bool]:
        """Read a batch of a map into the beginning of *arrays*; return how many it is, and whether it was the last."""
        count = ctypes.c_uint32(BATCH_ENTRIES)
        result = batch(
            self.map_fd(name),
            None if first else ctypes.byref(place),
            ctypes.byref(place),
            *(array.ctypes.data for array in arrays),
            ctypes.byref(count),
            None,
        )
        done = result == -errno.ENOENT
        if result and not done:
            raise LibbpfError(-result, f"cannot read {name}")
        return count.value, done

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
        descriptor = call("the program is not loaded", self._lib.bpf_program__fd, self._program(program))
        what = f"cannot read the statistics of {program}"
        call(what, self._lib.bpf_obj_get_info_by_fd, descriptor, ctypes.byref(info), ctypes.byref(size))
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
        return call(what, self._lib.bpf_object__find_program_by_name, self._pointer, name.encode())

    def _map(self, name: str) -> int:
        what = f"{self._name} has no map {name}"
        return call(what, self._lib.bpf_object__find_map_by_name, self._pointer, name.encode())


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

    _fields_ = (("size", ctypes.c_size_t), ("link_info", ctypes.c_void_p), ("link_info_size", ctypes.c_uint32))
