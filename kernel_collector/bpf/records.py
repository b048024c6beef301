"""The records of the kernel's programs as numpy dtypes, derived from the programs' own BTF.

`bpf/records.h` is the only definition. Only what Python needs of it is named here, so that an object of another version
is an error when it is opened, not garbage.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kernel_collector.bpf.btf import BtfError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from kernel_collector.bpf.btf import Btf


class TcpRecordKind(IntEnum):
    """What a `tcp_record` tells: `enum tcp_record_kind`."""

    LIVE = 0
    CONNECT = 1
    ESTABLISHED = 2
    LISTENING = 3
    CLOSED = 4
    RESET_SENT = 5


class HttpPairKind(IntEnum):
    """What a pair of bin and count of an `http_record` counts: `enum http_pair_kind`."""

    LATENCY = 1
    STATUS = 2
    CLASS = 3


TCP_FIELDS = (
    *("cookie", "time_ns", "network_namespace", "kind", "state", "old_state", "error", "fin_received"),
    *("local_address", "remote_address", "local_port", "remote_port"),
    *("bytes_sent", "bytes_retrans", "bytes_received", "segs_out", "segs_in", "total_retrans", "srtt_us", "min_rtt_us"),
    *("cgroup", "pid", "process_start_ns", "comm"),
)
UDP_FIELDS = {
    "udp_record": (
        *("cookie", "network_namespace", "drops", "local_address", "remote_address", "local_port", "remote_port"),
        *("cgroup", "pid", "process_start_ns", "comm"),
    ),
    "udp_peer": ("cookie", "local_address", "remote_address", "local_port", "remote_port"),
    "udp_traffic": (
        *("bytes_sent", "bytes_received", "packets_sent", "packets_received", "network_namespace"),
        *("cgroup", "pid", "process_start_ns", "comm"),
    ),
    "udp_dropped": ("before", "now"),
}
DROP_FIELDS = {
    "drop_key": (
        *("source_address", "destination_address", "network_namespace", "source_port", "destination_port"),
        *("reason", "transport"),
    ),
    "drop_counts": ("packets", "bytes", "socket"),
}
DNS_FIELDS = {
    "dns_peer": (*("cookie", "local_address", "remote_address", "local_port", "remote_port", "transport", "role"),),
    "dns_counts": (
        *("number", "cgroup", "owner", "latency_sum_ns", "latency_count", "latency_bin", "latency_bin_count"),
        *("queries", "retransmits", "timeouts", "results"),
    ),
    "dns_bin": ("entry", "bin"),
    "dns_key": ("cookie", "apart", "id", "role"),
    "dns_query": ("time_ns", "cgroup", "peer", "owner"),
    "dns_answer": ("answer", "offset", "length", "bytes"),
}
HTTP_FIELDS = (
    *(
        "cookie",
        "cgroup",
        "network_namespace",
        "client",
        "local_address",
        "remote_address",
        "local_port",
        "remote_port",
    ),
    *("requests", "latency_sum_ns", "pairs", "counts", "bins", "kinds"),
)
CGROUP_FIELDS = ("id", "path")
EXEC_FIELDS = ("process_start_ns", "pid", "parent_pid", "arguments_length", "comm", "arguments")


def tcp_record_dtype(btf: Btf) -> np.dtype:
    """Return the dtype of `struct tcp_record`: integers, addresses as V16, comm as S16.

    Raises:
        BtfError: the object lacks one of `TCP_FIELDS`, or a `TcpRecordKind` has another number in it.

    """
    _check_enum(btf, "tcp_record_kind", "TCP_RECORD_", TcpRecordKind)
    return _record_dtype(btf, "tcp_record", TCP_FIELDS)


def udp_record_dtypes(btf: Btf) -> tuple[np.dtype, ...]:
    """Return the dtypes of the structs in `UDP_FIELDS`: integers, addresses as V16, comm as S16.

    Raises:
        BtfError: the object lacks one of `UDP_FIELDS`.

    """
    return tuple(_record_dtype(btf, struct, needed) for struct, needed in UDP_FIELDS.items())


def drop_record_dtypes(btf: Btf) -> tuple[np.dtype, ...]:
    """Return the dtypes of `struct drop_key` and `drop_counts`: integers, addresses as V16.

    Raises:
        BtfError: the object lacks one of `DROP_FIELDS`.

    """
    return tuple(_record_dtype(btf, struct, needed) for struct, needed in DROP_FIELDS.items())


def dns_dtypes(btf: Btf) -> dict[str, np.dtype]:
    """Return the dtypes of the structs in `DNS_FIELDS`: a peer or an owner in one is a struct as well.

    Raises:
        BtfError: the object lacks one of `DNS_FIELDS`.

    """
    return {struct: _record_dtype(btf, struct, needed) for struct, needed in DNS_FIELDS.items()}


def http_record_dtype(btf: Btf) -> np.dtype:
    """Return the dtype of `struct http_record`: integers, addresses as V16, and three arrays that are one V each.

    Raises:
        BtfError: the object lacks one of `HTTP_FIELDS`, or an `HttpPairKind` has another number in it.

    """
    _check_enum(btf, "http_pair_kind", "HTTP_PAIR_", HttpPairKind)
    return _record_dtype(btf, "http_record", HTTP_FIELDS)


def exec_record_dtype(btf: Btf) -> np.dtype:
    """Return the dtype of `struct exec_record`: integers, comm as S16, arguments as S256.

    Raises:
        BtfError: the object lacks one of `EXEC_FIELDS`.

    """
    return _record_dtype(btf, "exec_record", EXEC_FIELDS)


def cgroup_record_dtype(btf: Btf) -> np.dtype:
    """Return the dtype of `struct cgroup_record`: the id, and the path as S512.

    Raises:
        BtfError: the object lacks one of `CGROUP_FIELDS`.

    """
    return _record_dtype(btf, "cgroup_record", CGROUP_FIELDS)


_ANOTHER_VERSION = "it was built from another version of bpf/records.h; build the package again"


def _check_enum(btf: Btf, name: str, prefix: str, expected: type[IntEnum]) -> None:
    numbers = btf.enum(name)
    for member in expected:
        if numbers.get(f"{prefix}{member.name}") != member:
            raise BtfError(f"the object's {prefix}{member.name} is not {member.value}: {_ANOTHER_VERSION}")


def _record_dtype(btf: Btf, struct: str, needed: Iterable[str]) -> np.dtype:
    dtype = btf.struct_dtype(struct)
    if missing := [name for name in needed if name not in (dtype.names or ())]:
        raise BtfError(f"struct {struct} of the object lacks {', '.join(missing)}: {_ANOTHER_VERSION}")
    return dtype
