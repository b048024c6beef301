"""The records of the compiled programs, as Python sees them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import Btf, BtfError
from kernel_collector.bpf.records import (
    CGROUP_FIELDS,
    EXEC_FIELDS,
    HTTP_FIELDS,
    TCP_FIELDS,
    TcpRecordKind,
    cgroup_record_dtype,
    exec_record_dtype,
    http_record_dtype,
    tcp_record_dtype,
)
from kernel_collector.objects import OBJECTS


def read(name):
    with BpfObject(OBJECTS / name) as found:
        return found.btf


@pytest.fixture(scope="module")
def tcp_btf():
    return read("tcp.bpf.o")


def members(struct):
    """Name to size in bytes, from the C source."""
    sizes = {"u64": 8, "u32": 4, "u16": 2, "u8": 1, "char": 1}
    source = Path("bpf/records.h").read_text()
    body = re.search(rf"struct {struct} {{(.*?)\n}};", source, re.DOTALL)[1]
    found = re.findall(r"^\s*(\w+) (\w+)(?:\[(\w+)\])?;", body, re.MULTILINE)
    lengths = {"": "1"} | dict(re.findall(r"^#define (\w+) (\d+)$", source, re.MULTILINE))
    return {name: sizes[kind] * int(lengths.get(length, length)) for kind, name, length in found}


@pytest.mark.parametrize(
    ("file", "struct", "derive", "needed"),
    [
        ("tcp.bpf.o", "tcp_record", tcp_record_dtype, TCP_FIELDS),
        ("packets.bpf.o", "http_record", http_record_dtype, HTTP_FIELDS),
        ("process.bpf.o", "exec_record", exec_record_dtype, EXEC_FIELDS),
        ("cgroup.bpf.o", "cgroup_record", cgroup_record_dtype, CGROUP_FIELDS),
    ],
)
def test_a_dtype_has_the_members_of_the_source(file, struct, derive, needed):
    dtype = derive(read(file))
    declared = members(struct)
    assert dtype.itemsize == sum(declared.values())
    declared.pop("padding", None)
    assert {name: dtype[name].itemsize for name in dtype.names} == declared
    assert set(needed) == set(declared)


def test_addresses_are_bytes_and_names_are_text(tcp_btf):
    dtype = tcp_record_dtype(tcp_btf)
    assert dtype["local_address"] == np.dtype("V16")
    assert dtype["comm"] == np.dtype("S16")
    assert dtype["cookie"] == np.dtype("<u8")


class Renamed(Btf):
    """The BTF of another version: one name is another."""

    def __init__(self, data, old, new):
        assert old in data
        super().__init__(data.replace(old, new))


def test_a_missing_member_is_named():
    with BpfObject(OBJECTS / "tcp.bpf.o") as found:
        other = Renamed(found.btf.data, b"\0fin_received\0", b"\0fin_deceived\0")
    with pytest.raises(BtfError, match=r"tcp_record of the object lacks fin_received: .* build the package again"):
        tcp_record_dtype(other)


def test_a_kind_of_another_number_is_named():
    with BpfObject(OBJECTS / "tcp.bpf.o") as found:
        other = Renamed(found.btf.data, b"\0TCP_RECORD_CLOSED\0", b"\0TCP_RECORD_CLOSER\0")
    with pytest.raises(BtfError, match="TCP_RECORD_CLOSED is not 4"):
        tcp_record_dtype(other)


def test_each_kind_has_a_number(tcp_btf):
    kinds = {name.removeprefix("TCP_RECORD_"): number for name, number in tcp_btf.enum("tcp_record_kind").items()}
    assert kinds == {kind.name: kind.value for kind in TcpRecordKind}
