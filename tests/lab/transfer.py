"""A transfer between two hosts under the eyes of collectors, and what must be exported of it to the byte."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.lab.daemons import Exported
from tests.lab.sockets import ClosedSockets, payload
from tests.lab.traffic import IPERF_COOKIE_BYTES, IPERF_PORT, Iperf
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program
    from tests.lab.sockets import Socket


class Transfer:
    """iperf3 from `client` to `server`, and `ss` as a witness on both.

    Attributes:
        collectors: started by `watch` or by the test; `finish` ends them before the reducer.
        reducer: started by the test.

    """

    def __init__(self, lab: Lab, *, ipv6: bool = False) -> None:
        self.lab = lab
        self.ipv6 = ipv6
        self.client = lab.host("client")
        self.server = lab.host("server")
        self.closed = {host: ClosedSockets(lab.programs, host) for host in (self.client, self.server)}
        self.collectors: list[Program] = []
        self.reducer: Program | None = None
        self.iperf: Iperf | None = None
        self._moving: Future[int] | None = None
        self.moved = 0

    def watch(self) -> None:
        """Start a collector on each host."""
        self.collectors = [self.lab.start_collector(host) for host in (self.client, self.server)]

    def begin(self, size: int, bitrate: str) -> None:
        """Start to move *size* bytes, whole blocks of 128 KiB, from client to server; *bitrate* is iperf3's."""
        address = self.address_of(self.server)
        self.iperf = Iperf(self.lab.programs, self.server, self.client, address, size=size, bitrate=bitrate)
        # In a thread: a word that is held back for longer than a reducer remembers flows would count at both ends.
        waiting = ThreadPoolExecutor(1)
        self._moving = waiting.submit(self.iperf.finish)
        waiting.shutdown(wait=False)

    def wait(self) -> None:
        """Wait for the end of the transfer."""
        self.moved = self._moving.result()

    def finish(self) -> Exported:
        """Wait for the end of the transfer, end the daemons, and return what was exported."""
        self.wait()
        self.lab.finish(self.reducer, *self.collectors)
        return Exported(self.lab.sink.points())

    def address_of(self, host: Host) -> str:
        """Return the address that the transfer uses."""
        return host.ipv6 if self.ipv6 else host.ipv4

    def sent(self, source: Host) -> tuple[int, int]:
        """Return the payload bytes and the retransmits of iperf3's sockets on a host, as the kernel counted them."""
        sockets = self._closed_on(source)
        return payload(sockets), sum(socket.retransmits for socket in sockets)

    def _closed_on(self, host: Host) -> list[Socket]:
        """Return iperf3's sockets on a host, once `ss` has told of both."""

        def told() -> list[Socket]:
            return self.closed[host].sockets(lambda s: IPERF_PORT in (s.local_port, s.remote_port))

        wait_until(lambda: len(told()) >= 2, 60, f"ss on {host}")
        sockets = told()
        assert len(sockets) == 2, sockets
        return sockets

    def _data_sent(self) -> int:
        port = self.iperf.client_port
        return sum(
            payload(s for s in self._closed_on(host) if port in (s.local_port, s.remote_port)) for host in self.closed
        )

    def check(self, exported: Exported, *, named: bool = True) -> None:
        """Assert that the export has, a direction, what the kernel counted: iperf3's own count, and its control.

        With *named* all of it must carry the names of both programs. A reducer that lost its memory cannot name an end
        whose collector has not come back yet.
        """
        assert self._data_sent() == self.moved + IPERF_COOKIE_BYTES
        names = {"source__process__name": "iperf3", "dest__process__name": "iperf3"} if named else {}
        both_ways = 0
        for source, dest in ((self.client, self.server), (self.server, self.client)):
            sent, retransmits = self.sent(source)
            both_ways += sent
            ends = names | {"source__ip": self.address_of(source), "dest__ip": self.address_of(dest)}
            assert exported.total("tcp.bytes", **ends) == sent  # control connection included
            assert exported.total("tcp.retrans", **ends) == retransmits
            connections = 2 if source is self.client else 0
            assert exported.total("tcp.new_sockets", **ends) == connections
            assert exported.total("tcp.closed_sockets", **ends) == connections
        if named:
            assert exported.total("tcp.bytes", "az_az", **names) == both_ways
