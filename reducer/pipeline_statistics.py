"""What the pipeline counts of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PipelineStatistics:
    """Counters run from the start.

    Attributes:
        rows: taken.
        rows_late: of those, rows whose window was sealed before they came; they count in the window after.
        rows_refused: rows that are in no window, since its rows would have told more of a counter than can be added up.
        rows_loopback: rows that were left out since their address is a loopback address.
        rows_open: rows that wait for their window to be sealed.
        windows: sealed.
        flows: remembered now.
        balances_cut: balances of flows and of requests whose two ends differed by more than is believed.
        flows_untracked: flows that were forgotten early since there were too many.
        addresses_unwatched: addresses of machines whose collectors were away that were left out of a window: too many.
        flows_of_docker_proxy: flows of Docker's proxy to its containers, which are left out.
        ends_unknown: ends of windows' flows that have no name, by reason.
        ends_rolled_up: ends that were not told apart by address since there were too many.
        series_rolled_up: series of windows that were added to others since a level had too many.
        flows_without_ports: flows of windows that were told without ports since there were too many.
        processes_refused: processes that were not named since there were too many.
        cgroups_refused: containers and services that were not named since there were too many.
        entities_refused: pods, services, nodes and interfaces that were not taken since there were too many.
        entities: pods, services, nodes and interfaces known now.
        dns_names: addresses that are known now by a name of the DNS.
        dns_names_refused: addresses that were not named since too many came at once.
        request_balances: counts of requests whose two ends told different amounts so far.
        request_balances_forgotten: those that were forgotten early since there were too many.
        receivers_forgotten: flows to many receivers of which the chosen one was forgotten early for that.
        bytes_of_both: payload of directions that both ends told of.
        bytes_apart: what both ends differed by on these.
        sessions: known now.
        window_lag_ns: from the end of the window sealed last until it was sealed.

    """

    rows: int
    rows_late: int
    rows_refused: int
    rows_loopback: int
    rows_open: int
    windows: int
    flows: int
    flows_untracked: int
    balances_cut: int
    addresses_unwatched: int
    flows_of_docker_proxy: int
    ends_unknown: dict[str, int]
    ends_rolled_up: int
    series_rolled_up: int
    flows_without_ports: int
    processes_refused: int
    cgroups_refused: int
    entities_refused: int
    entities: int
    dns_names: int
    dns_names_refused: int
    request_balances: int
    request_balances_forgotten: int
    receivers_forgotten: int
    bytes_of_both: int
    bytes_apart: int
    sessions: int
    window_lag_ns: int
