"""The DNS of real resolvers: unbound answers what dig asks, and asks dnsmasq in turn, with names in mixed case."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from tests.lab.daemons import Exported
from tests.lab.dnsmasq import asked, dnsmasq, rcodes
from tests.lab.network import wait_for_listener
from tests.packages import debian_command

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program


MDNS_PORT = 5353
# More than any size of EDNS in use, so that over UDP it comes truncated.
LONG_TEXT = ["x" * 250] * 20
CONFIGURATION = """
server:
  do-daemonize: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{directory}"
  logfile: ""
  interface: {address}
  access-control: 0.0.0.0/0 allow
  module-config: "iterator"
  use-caps-for-id: yes
  local-zone: "test." static
  local-data: "a.test. 60 A 192.0.2.1"
  local-data: "a.test. 60 AAAA 2001:db8::1"
  local-data: "a.test. 60 MX 10 mail.test."
  local-data: 'web.test. 60 HTTPS 1 . alpn="h2" ipv4hint=192.0.2.7'
  local-data: '_x.web.test. 60 SVCB 1 web.test. port=8443'
  local-data: 'long.test. 60 TXT {text}'
  local-zone: "closed." always_refuse
  local-zone: "168.192.in-addr.arpa." static
  local-data-ptr: "192.168.7.1 back.test"
forward-zone:
  name: "up."
  forward-addr: {upstream}
remote-control:
  control-enable: no
"""


def unbound(lab: Lab, host: Host, upstream: Host) -> Program:
    """Start unbound, which knows names below test, refuses those below closed, and asks *upstream* for all below up."""
    command = debian_command("usr/sbin/unbound", "unbound")
    configuration = lab.directory / "unbound.conf"
    text = " ".join(f'"{each}"' for each in LONG_TEXT)
    configuration.write_text(
        CONFIGURATION.format(directory=lab.directory, address=host.ipv4, upstream=upstream.ipv4, text=text)
    )
    program = lab.programs.start("unbound", *command, "-d", "-c", str(configuration), host=host)
    wait_for_listener(host, 53, "udp")
    return program


class Dig:
    """Asks from a host, and counts the answers that dig shows, and those that it passes over as truncated."""

    def __init__(self, host: Host, server: Host) -> None:
        self.results: Counter[str] = Counter()
        self._host = host
        self._command = (*debian_command("usr/bin/dig", "bind9-dnsutils"), f"@{server.ipv4}", "+tries=1", "+timeout=20")

    def ask(self, *arguments: str) -> str:
        """Ask; return what dig writes."""
        shown = self._host.run(*self._command, *arguments)
        (status,) = re.findall(r"status: (\w+)", shown)
        answers = int(re.findall(r"ANSWER: (\d+)", shown)[0])
        truncated = bool(re.search(r"flags:[^;]* tc", shown))
        self.results["NODATA" if status == "NOERROR" and not (answers or truncated) else status] += 1
        self.results["NOERROR"] += shown.count("Truncated, retrying in TCP")
        return shown


def test_dig_asks_unbound_and_unbound_asks_dnsmasq(lab: Lab) -> None:
    client, resolver, server = lab.host("client"), lab.host("resolver"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, resolver, server)]
    text = ",".join(LONG_TEXT[:8])
    upstream = dnsmasq(lab, server, "--local=/up/", "--host-record=a.up,192.0.2.9", f"--txt-record=long.up,{text}")
    unbound(lab, resolver, server)
    dig = Dig(client, resolver)
    for way in ((), ("+noedns",), ("+dnssec", "+bufsize=4096"), ("+tcp",), ("+tcp", "+keepopen", "+cookie")):
        dig.ask(*way, "a.test", "A")
        dig.ask(*way, "A.tEsT", "AAAA")
        dig.ask(*way, "a.test", "MX")
        dig.ask(*way, "a.test", "TXT")
        dig.ask(*way, "a.test", "ANY", "+notcp")
        dig.ask(*way, "web.test", "HTTPS")
        dig.ask(*way, "web.test", "SVCB")
        dig.ask(*way, "_x.web.test", "SVCB")
        dig.ask(*way, "missing.test")
        dig.ask(*way, "x.closed")
        dig.ask(*way, "-x", "192.168.7.1")
    assert "Truncated, retrying in TCP" in dig.ask("long.test", "TXT")
    assert re.search(r"flags:[^;]* tc", dig.ask("long.test", "TXT", "+ignore"))
    assert "Truncated, retrying in TCP" in dig.ask("long.test", "TXT", "+noedns")
    dig.ask("a.up", "A")
    dig.ask("a.up", "A")  # from its memory
    dig.ask("long.up", "TXT")
    dig.ask("missing.up", "A")
    dig.ask("a.up", "AAAA")
    assert dig.results.keys() == {"NOERROR", "NODATA", "NXDOMAIN", "REFUSED"}
    assert re.search(r"query\[\w+\] [\w.]*[A-Z]", upstream.output()), "unbound mixes capitals in (0x20)"
    assert asked(upstream) >= 5
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    ends = {"source__ip": client.ipv4, "dest__ip": resolver.ipv4}
    assert rcodes(exported, **ends) == dig.results
    assert exported.total("dns.queries", **ends) == dig.results.total()
    names = {"source__process__name": "dig", "dest__process__name": "unbound"}
    assert exported.total("dns.queries", **ends, **names) == dig.results.total()
    ends = {"source__ip": resolver.ipv4, "dest__ip": server.ipv4}
    assert exported.total("dns.queries", **ends) == asked(upstream)
    assert sum(rcodes(exported, **ends).values()) == asked(upstream)
    assert not exported.total("dns.timeouts")
    assert not exported.total("dns.retransmits")


def test_other_ports_are_not_those_of_the_dns(lab: Lab) -> None:
    """A name that is asked for by multicast (RFC 6762), and the answer of whoever has it, is no DNS."""
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    other = dnsmasq(lab, server, "--local=/local/", "--host-record=a.local,192.0.2.1", port=MDNS_PORT)
    dig = Dig(client, server)
    assert "192.0.2.1" in dig.ask("-p", str(MDNS_PORT), "a.local")
    assert asked(other) == 1
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    assert not exported.total("dns.queries")
    assert exported.total("udp.packets", source__ip=client.ipv4, dest__ip=server.ipv4) == 1
