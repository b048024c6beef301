"""The TCP and exec probes alone, against what this test itself did to the running kernel."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kernel_collector.bpf.records import TcpRecordKind
from kernel_collector.machine.network_namespaces import (
    NetworkNamespace,
    processes_by_network_namespace,
    tcp_sockets_in_use,
)
from kernel_collector.tcp.probe import TcpProbe
from kernel_collector.tcp.states import TcpState
from kernel_collector.workloads.execs import ExecProbe
from tests.lab.sockets import cookie
from tests.lab.waiting import wait_until

SENT, ANSWERED = 100_000, 777


@pytest.fixture
def namespace(host):
    with NetworkNamespace(host.namespace) as opened:
        yield opened


@pytest.fixture
def probe(namespace):
    with TcpProbe(frozenset([namespace.inode])) as opened:
        yield opened


@contextlib.contextmanager
def connection(host, address="127.0.0.1"):
    """A listener on the host, a client, and the end that was accepted."""
    with listener_of(host, address) as listener, connect(host, listener) as client, listener.accept()[0] as accepted:
        yield listener, client, accepted


def listener_of(host, address="127.0.0.1"):
    with host.entered():
        return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def connect(host, listener):
    with host.entered():
        return socket.create_connection(listener.getsockname()[:2])


def read_exactly(sock, length):
    while length:
        length -= len(sock.recv(length))


def payload(records):
    """Payload bytes sent and received by cookie, as the architecture page says they are to be computed."""
    sent = records["bytes_sent"] - records["bytes_retrans"]
    received = records["bytes_received"] - records["fin_received"]
    return {int(key): pair for key, *pair in zip(records["cookie"], sent.tolist(), received.tolist(), strict=True)}


def events(probe, closed):
    """All events until so many sockets were closed."""
    batches = [probe.drain()]

    def complete():
        batches.append(probe.drain())
        return sum(np.count_nonzero(batch["kind"] == TcpRecordKind.CLOSED) for batch in batches) >= closed

    wait_until(complete, 60, f"{closed} sockets to be closed")
    return np.concatenate(batches)


def exchange(client, accepted):
    client.sendall(b"x" * SENT)
    read_exactly(accepted, SENT)
    accepted.sendall(b"y" * ANSWERED)
    read_exactly(client, ANSWERED)


def close_client_first(client, accepted):
    client.close()
    assert accepted.recv(1) == b""
    accepted.close()


def close_accepted_first(client, accepted):
    close_client_first(accepted, client)


def reset(client, accepted):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with contextlib.suppress(ConnectionResetError):
        accepted.recv(1)


def shut_down_reading(client, accepted):
    client.shutdown(socket.SHUT_RD)
    accepted.shutdown(socket.SHUT_RD)


def shut_down_everything(client, accepted):
    client.shutdown(socket.SHUT_RDWR)
    accepted.shutdown(socket.SHUT_RDWR)


def reset_after_fin(client, accepted):
    accepted.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    reset(client, accepted)


def shut_down_reading_then_reset(client, accepted):
    accepted.shutdown(socket.SHUT_RD)
    reset(client, accepted)


ENDINGS = [
    close_client_first,
    close_accepted_first,
    reset,
    shut_down_reading,
    shut_down_everything,
    reset_after_fin,
    shut_down_reading_then_reset,
]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("end", ENDINGS)
def test_final_counters_give_the_payload_however_a_connection_ends(host, probe, end, address):
    with connection(host, address) as (_, client, accepted):
        expected = {cookie(client): [SENT, ANSWERED], cookie(accepted): [ANSWERED, SENT]}
        exchange(client, accepted)
        end(client, accepted)
    told = events(probe, closed=3)
    closed = told[(told["kind"] == TcpRecordKind.CLOSED) & (told["old_state"] != TcpState.LISTEN)]
    assert payload(closed) == expected


@pytest.mark.parametrize("first", ["client", "accepted"])
def test_half_closed_connections_are_exact_at_each_poll(host, probe, first):
    with connection(host) as (_, client, accepted):
        closing, other = (client, accepted) if first == "client" else (accepted, client)
        exchange(closing, other)
        closing.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        assert payload(probe.poll())[cookie(other)] == [ANSWERED, SENT]
        other.sendall(b"z" * 5)
        read_exactly(closing, 5)
        assert payload(probe.poll())[cookie(closing)] == [SENT, ANSWERED + 5]
        other.shutdown(socket.SHUT_WR)
        assert closing.recv(1) == b""
        assert payload(probe.poll())[cookie(other)] == [ANSWERED + 5, SENT]


def test_events_tell_owner_endpoints_and_times(host, probe):
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with connection(host) as (listener, client, accepted):
        listening_port, client_port = listener.getsockname()[1], client.getsockname()[1]
        listening, connecting, accepting = map(cookie, (listener, client, accepted))
    told = events(probe, closed=3)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert np.all((told["time_ns"] > before) & (told["time_ns"] < after))
    kinds = {
        key: [TcpRecordKind(kind).name for kind in told["kind"][told["cookie"] == key]]
        for key in (listening, connecting, accepting)
    }
    assert kinds == {
        listening: ["LISTENING", "CLOSED"],
        connecting: ["CONNECT", "ESTABLISHED", "CLOSED"],
        accepting: ["CLOSED"],
    }
    owned = np.isin(told["kind"], [TcpRecordKind.CONNECT, TcpRecordKind.LISTENING])
    assert set(told["pid"][owned]) == {os.getpid()}
    assert set(told["comm"][owned]) == {Path("/proc/self/comm").read_bytes().strip()}
    start_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert set(told["process_start_ns"][owned] // (10**9 // os.sysconf("SC_CLK_TCK"))) == {start_ticks}
    assert set(told["pid"][~owned]) == {0}
    established = told[told["kind"] == TcpRecordKind.ESTABLISHED][0]
    assert (established["local_port"], established["remote_port"]) == (client_port, listening_port)
    loopback = b"\0" * 10 + b"\xff\xff" + ipaddress.ip_address("127.0.0.1").packed
    assert established["local_address"].tobytes() == established["remote_address"].tobytes() == loopback
    assert 0 < established["srtt_us"] < 1_000_000


def test_a_refused_connection_tells_the_error(host, probe):
    with listener_of(host) as closed:
        address = closed.getsockname()
    with host.entered(), socket.socket() as client:
        refusal = client.connect_ex(address)
        key = cookie(client)
    mine = [r for r in events(probe, closed=2) if r["cookie"] == key]
    assert [r["kind"] for r in mine] == [TcpRecordKind.CONNECT, TcpRecordKind.CLOSED]
    assert mine[1]["old_state"] == TcpState.SYN_SENT
    assert mine[1]["error"] == refusal


def test_a_socket_used_again_has_two_lives_of_one_cookie(host, probe):
    with connection(host) as (listener, client, accepted):
        exchange(client, accepted)
        disconnect(client)
        client.connect(listener.getsockname())
        client.sendall(b"again")
        key = cookie(client)
    mine = [r for r in events(probe, closed=5) if r["cookie"] == key]
    lives = ["CONNECT", "ESTABLISHED", "CLOSED", "RESET_SENT", "CONNECT", "ESTABLISHED", "CLOSED"]
    assert [TcpRecordKind(r["kind"]).name for r in mine] == lives
    assert [int(r["bytes_sent"]) for r in mine if r["kind"] == TcpRecordKind.CLOSED] == [SENT, 5]


def disconnect(sock):
    """connect(AF_UNSPEC): the socket may then connect again."""
    assert ctypes.CDLL(None).connect(sock.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) == 0


def test_sockets_of_other_namespaces_are_passed_over(host, probe, namespace):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, socket.create_connection(elsewhere.getsockname()):
        assert len(probe.poll()) == 0
        with connection(host):
            assert set(probe.poll()["network_namespace"]) == {namespace.inode}
    assert set(events(probe, closed=3)["network_namespace"]) == {namespace.inode}


def test_without_named_namespaces_all_are_seen(host, namespace):
    here = Path("/proc/self/ns/net").stat().st_ino
    with TcpProbe() as probe, socket.create_server(("127.0.0.1", 0)) as elsewhere, connection(host) as ends:
        polled = probe.poll()
        told = probe.drain()
        for records in (polled, told):
            where = dict(zip(records["cookie"], records["network_namespace"], strict=True))
            assert where[cookie(elsewhere)] == here
            assert where[cookie(ends[1])] == namespace.inode


def test_poll_tells_each_holder_of_a_socket(host, probe):
    with ExecProbe() as exec_probe, connection(host) as (_, client, _):
        child = subprocess.Popen(["sleep", "60"], pass_fds=[client.fileno()])
        try:
            told = []

            def executed():
                told.append(exec_probe.drain())
                return any(child.pid in records["pid"][records["comm"] == b"sleep"] for records in told)

            wait_until(executed, 60, "the exec")
            held = probe.poll()
            held = held[held["cookie"] == cookie(client)]
            execs = np.concatenate(told)
        finally:
            child.kill()
            child.wait()
    assert sorted(held["pid"]) == sorted([os.getpid(), child.pid])
    assert set(held["comm"][held["pid"] == child.pid]) == {b"sleep"}
    begun = held["process_start_ns"][held["pid"] == child.pid]
    execs = execs[execs["pid"] == child.pid]
    assert set(execs["process_start_ns"].tolist()) == set(begun.tolist()), "one name for one process"
    assert execs["comm"].tolist()[-1] == b"sleep"
    assert len(execs) == 2, "its fork and its exec"
    assert execs["parent_pid"].tolist() == [os.getpid()] * 2


def test_walk_finds_what_no_process_holds_and_nothing_else(host, probe, namespace):
    home = namespace_of_this_thread()
    holder = subprocess.Popen(["nsenter", f"--net={host.namespace}", "sleep", "60"])
    try:
        wait_until(lambda: holder.pid in processes_by_network_namespace().values(), 60, "a process in the namespace")
        with listener_of(host) as listener, connect(host, listener) as client:  # not accepted: no file descriptor
            client.sendall(b"unread")
            polled, walked = probe.poll(), probe.walk(namespace.fd)
            assert set(polled["cookie"]) == {cookie(listener), cookie(client)}
            unheld = walked[~np.isin(walked["cookie"], polled["cookie"])]
            assert unheld["bytes_received"].tolist() == [6]
            assert unheld["pid"].tolist() == [0]
            assert len(walked) == tcp_sockets_in_use(holder.pid) == 3
        assert namespace_of_this_thread() == home
        wait_until(lambda: tcp_sockets_in_use(holder.pid) == 0, 60, "the sockets to end")
        assert len(probe.walk(namespace.fd)) == 0
    finally:
        holder.kill()
        holder.wait()


def namespace_of_this_thread():
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_the_reader_is_woken_once_at_a_quarter_and_what_does_not_fit_is_counted(host, probe):
    """About 29,000 records fit; each listen() and close() makes two."""
    wakeups = select.poll()
    wakeups.register(probe.wakeup_fd, select.POLLIN)
    each_wakeup = select.epoll()
    each_wakeup.register(probe.wakeup_fd, select.EPOLLIN | select.EPOLLET)
    probe.drain()
    churn_listeners(host, 3_000)
    assert wakeups.poll(0) == [], "below a quarter nobody is woken"
    churn_listeners(host, 1_000)
    assert wakeups.poll(60_000)
    assert each_wakeup.poll(60)
    churn_listeners(host, 1_000)
    assert each_wakeup.poll(0.1) == [], "who was woken is not woken again before it drained"
    assert probe.events_lost == 0
    assert len(probe.drain()) == 10_000
    churn_listeners(host, 1)
    assert wakeups.poll(0) == [], "what waits in the ring alone wakes nobody"
    assert len(probe.drain()) == 2
    churn_listeners(host, 16_000)
    assert wakeups.poll(60_000)
    each_wakeup.close()
    drained = probe.drain()
    assert probe.events_lost > 0
    assert len(drained) + probe.events_lost == 32_000
    churn_listeners(host, 1)
    assert len(probe.drain()) == 2, "the ring goes on"


def churn_listeners(host, count):
    with host.entered():
        for _ in range(count):
            with socket.socket() as listener:
                listener.listen()


def test_execs_tell_arguments_and_survive_the_exec_of_a_thread():
    with ExecProbe() as probe:
        execute = "threading.Thread(target=os.execvp, args=('sleep', ['sleep', '0', '0.0'])).start()"
        child = subprocess.Popen([sys.executable, "-c", f"import os, threading; {execute}"])
        child.wait()
        told = probe.drain()
        long = subprocess.Popen(["true", "z" * 1000])
        long.wait()
        cut = probe.drain()
    mine = told[told["pid"] == child.pid]
    assert mine["comm"].tolist()[-1] == b"sleep"
    assert mine["arguments"].tolist()[-1] == b"sleep\x000\x000.0"
    assert mine["arguments_length"].tolist()[-1] == len(b"sleep\x000\x000.0\0")
    assert len(set(mine["process_start_ns"])) == 1, "an exec does not make another process"
    cut = cut[(cut["pid"] == long.pid) & (cut["comm"] == b"true")]
    assert cut["arguments_length"].tolist() == [256]
    assert cut["arguments"].tolist() == [(b"true\0" + b"z" * 1000)[:256]]


def test_a_fork_has_its_parents_arguments():
    command = (sys.executable, "-c", "import os; child = os.fork(); child and print(child, os.wait()[1])")
    with ExecProbe() as probe:
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child, status = map(int, parent.communicate()[0].split())
        told = probe.drain()
    assert status == 0
    [forked] = told[told["pid"] == child]
    assert forked["parent_pid"] == parent.pid
    own = ("\0".join(command) + "\0").encode()
    assert forked["arguments_length"] == len(own)
    assert bytes(forked["arguments"]) == own.rstrip(b"\0")
