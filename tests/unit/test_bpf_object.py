"""What of a BPF object can be had without the kernel's leave."""

from __future__ import annotations

import ctypes

import pytest

from kernel_collector.bpf.bpf_object import BpfObject, _ProgramInfo
from kernel_collector.bpf.btf import BtfError
from kernel_collector.bpf.libbpf import LibbpfError, library
from kernel_collector.objects import OBJECTS


@pytest.fixture
def tcp():
    with BpfObject(OBJECTS / "tcp.bpf.o") as opened:
        yield opened


def test_a_missing_file_is_told_in_libbpfs_words(tmp_path):
    path = tmp_path / "missing.bpf.o"
    with pytest.raises(LibbpfError) as caught:
        BpfObject(path)
    assert str(caught.value) == (
        f"cannot open {path}: No such file or directory (elf: failed to open {path}: No such file or directory)"
    )
    assert caught.value.errno == 2


def test_a_file_that_is_no_object_is_an_error(tmp_path):
    path = tmp_path / "text.bpf.o"
    path.write_text("no ELF")
    with pytest.raises(LibbpfError, match=r"text\.bpf\.o \(elf: .* is not a (proper|valid) ELF object"):
        BpfObject(path)


def test_programs_and_maps_that_are_not_there_are_named(tcp):
    with pytest.raises(LibbpfError, match=r"tcp\.bpf\.o has no program nothing"):
        tcp.load(only="nothing")
    with pytest.raises(LibbpfError, match=r"tcp\.bpf\.o has no map nothing"):
        tcp.map_size("nothing")
    assert tcp.map_size("events") == 4 << 20


def test_constants_are_set_by_name_and_size(tcp):
    tcp.set_constant("network_namespaces_named", b"\1")
    place = tcp.btf.variables(".rodata")["network_namespaces_named"]
    size = ctypes.c_size_t()
    start = library().bpf_map__initial_value(tcp._map(".rodata"), ctypes.byref(size))
    assert ctypes.string_at(start + place.offset, 1) == b"\1"
    for name, value in (("network_namespaces_named", b"\1\0"), ("nothing", b"\1")):
        with pytest.raises(BtfError, match=f"no constant {name} of {len(value)} bytes"):
            tcp.set_constant(name, value)


def test_closing_twice_is_harmless():
    opened = BpfObject(OBJECTS / "tcp.bpf.o")
    opened.close()
    opened.close()


def test_the_layout_of_program_information_is_the_kernels():
    """Offsets of struct bpf_prog_info in include/uapi/linux/bpf.h, as a C compiler gives them."""
    assert (_ProgramInfo.run_time_ns.offset, _ProgramInfo.run_cnt.offset) == (192, 200)
