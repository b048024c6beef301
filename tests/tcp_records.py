"""Records as the kernel's programs write them, for tests of what reads them."""

from __future__ import annotations

import functools

import numpy as np

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.records import TcpRecordKind, exec_record_dtype, tcp_record_dtype
from kernel_collector.objects import OBJECTS
from kernel_collector.tcp.states import TcpState
from tests.rows import packed

NAMESPACE = 4_026_531_840
DEFAULTS = {
    "network_namespace": NAMESPACE,
    "local_address": packed("10.0.0.1"),
    "remote_address": packed("10.0.0.2"),
    "local_port": 40_000,
    "remote_port": 80,
    "min_rtt_us": 0xFFFFFFFF,
}
STATES = {
    TcpRecordKind.LIVE: (TcpState.ESTABLISHED, 0),
    TcpRecordKind.CONNECT: (TcpState.SYN_SENT, TcpState.CLOSE),
    TcpRecordKind.ESTABLISHED: (TcpState.ESTABLISHED, TcpState.SYN_SENT),
    TcpRecordKind.LISTENING: (TcpState.LISTEN, TcpState.CLOSE),
    TcpRecordKind.CLOSED: (TcpState.CLOSE, TcpState.LAST_ACK),
    TcpRecordKind.RESET_SENT: (0, 0),
}


@functools.cache
def tcp_dtype() -> np.dtype:
    return tcp_record_dtype(BpfObject(OBJECTS / "tcp.bpf.o").btf)


@functools.cache
def exec_dtype() -> np.dtype:
    return exec_record_dtype(BpfObject(OBJECTS / "process.bpf.o").btf)


def tcp_records(*rows: dict) -> np.ndarray:
    """An array of `tcp_record`: what a row does not say is its kind's, or the default."""
    records = np.zeros(len(rows), tcp_dtype())
    for record, row in zip(records, rows, strict=True):
        state, old_state = STATES[TcpRecordKind(row.get("kind", 0))]
        for name, value in (DEFAULTS | {"state": state, "old_state": old_state} | row).items():
            record[name] = value
    return records
