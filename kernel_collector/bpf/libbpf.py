"""The system's libbpf, by ctypes: its functions, iterators and the kernel's types.

Every error carries what libbpf and the kernel's verifier said.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import os
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SONAME = "libbpf.so.1"
ITERATOR_READ_BYTES = 8 * mmap.PAGESIZE  # the most that bpf_seq_read() gives at once

_P, _I, _U32, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_P, [_P]),
    "libbpf_version_string": (_S, []),
    "libbpf_probe_bpf_map_type": (_I, [_U32, _P]),
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
_MAP_TYPE_ARRAY = 2
_KIND_ENUM, _TYPE_WORDS = 6, 3  # include/uapi/linux/btf.h: an enum's values follow struct btf_type, each two words
_OWN_ERRORS = 4000  # from here on libbpf's own: what it prints tells them
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


def call(what: str, function: Callable[..., int | None], *arguments: Any) -> int:
    """Call a function of libbpf that tells failure by NULL and errno, or by a negative errno.

    Raises:
        LibbpfError: it failed; *what* says what that means.

    """
    _said.clear()
    result = function(*arguments)
    if result is None:
        raise LibbpfError(ctypes.get_errno(), what, tuple(_said))
    if result < 0:
        raise LibbpfError(-result, what, tuple(_said))
    return result


def takes_maps() -> bool:
    """Return whether the kernel lets this process make the simplest of all maps."""
    return bool(library().libbpf_probe_bpf_map_type(_MAP_TYPE_ARRAY, None) == 1)


def count_runs() -> int:
    """Have the kernel count what all BPF programs cost, as long as the file descriptor that is returned is open.

    Raises:
        LibbpfError: CAP_SYS_ADMIN is missing.

    """
    return call("the cost of programs is not counted", library().bpf_enable_stats, _STATS_RUN_TIME)


def open_iterator(link: int) -> int:
    """Return a file descriptor from which one run of the iterator attached by *link* is read; the caller closes it.

    Raises:
        LibbpfError: the kernel refused.

    """
    return call("cannot open an iterator", library().bpf_iter_create, link)


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
    btf = call("cannot read the kernel's BTF", lib.btf__load_vmlinux_btf)
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


def _keep(level: int, form: int, arguments: int) -> int:
    """Keep what libbpf warns of; a va_list is passed by address on amd64 and on arm64."""
    if level == _WARNING:
        text = ctypes.create_string_buffer(1 << 16)
        ctypes.CDLL(None).vsnprintf(text, ctypes.c_size_t(len(text)), _P(form), _P(arguments))
        _said.extend(text.value.decode(errors="replace").splitlines())
    return 0


_print = _Printer(_keep)  # libbpf holds its address


def _cause(said: tuple[str, ...]) -> str:
    """Return the line that tells most: the verifier's last before its totals, else libbpf's first but its warning."""
    for line, following in itertools.pairwise(said):
        if following.startswith("processed "):
            return line
    told = (line.removeprefix("libbpf: ") for line in said if "RLIMIT_MEMLOCK (err" not in line)
    return next(told, "")
