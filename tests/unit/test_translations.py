"""Translations: what endpoints rows get, at either end, before and after the kernel forgets."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest

from intake.columns import empty_columns
from kernel_collector.nat import translations
from kernel_collector.nat.chosen_endpoints import ChosenEndpoints
from kernel_collector.nat.translations import KEPT_NS, Translations
from tests.conntrack_messages import TCP, UDP, connections
from tests.rows import packed

NAMESPACE, POD_NAMESPACE, OTHER_NAMESPACE = 4_026_531_840, 4_026_532_000, 4_026_532_001
SECOND_NS = 10**9
CLIENT, SERVICE, POD, NODE = ("10.0.0.1", 40000), ("10.96.0.1", 80), ("10.1.0.7", 8080), ("10.0.0.9", 50000)
PORT_OF_NODE = ("10.0.0.9", 30080)


def pair(local, remote):
    return (*local, *remote)


DNAT = (pair(CLIENT, SERVICE), pair(CLIENT, POD))
# What comes to the node's port goes on to a pod, with the node as its source.
FULL = (pair(CLIENT, PORT_OF_NODE), pair(NODE, POD))


def rows(*pairs, table="tcp", **columns):
    filled = empty_columns(len(pairs), table)
    filled["socket"] = np.arange(1, len(pairs) + 1, dtype=np.uint64)
    filled["network_namespace"][:] = NAMESPACE
    for name, values in columns.items():
        filled[name] = np.array(values, filled[name].dtype)
    for row, (local, local_port, remote, remote_port) in enumerate(pairs):
        filled["local_address"][row], filled["remote_address"][row] = packed(local), packed(remote)
        filled["local_port"][row], filled["remote_port"][row] = local_port, remote_port
    return filled


def text(packed):
    parsed = ipaddress.ip_address(packed.tobytes())
    return str(parsed.ipv4_mapped or parsed)


def pairs_of(table):
    columns = (table[name] for name in ("local_address", "local_port", "remote_address", "remote_port"))
    return [
        (text(local), int(local_port), text(remote), int(remote_port))
        for local, local_port, remote, remote_port in zip(*columns, strict=True)
    ]


def translated(table, *pairs, name="tcp", **columns):
    return pairs_of(table.translate({name: rows(*pairs, table=name, **columns)})[name])


def table_of(*entries, **options):
    table = Translations({NAMESPACE}, **options)
    table.update(connections(*entries), NAMESPACE, SECOND_NS)
    return table


def test_the_first_ends_rows_get_what_the_other_end_sees():
    assert translated(table_of(DNAT), pair(CLIENT, SERVICE)) == [pair(CLIENT, POD)]
    assert translated(table_of(FULL), pair(CLIENT, PORT_OF_NODE)) == [pair(NODE, POD)]


def test_the_other_ends_rows_are_left_alone_where_the_first_end_is_here():
    assert translated(table_of(FULL), pair(POD, NODE), pair(CLIENT, PORT_OF_NODE)) == [pair(POD, NODE), pair(NODE, POD)]
    table = table_of(FULL)
    translated(table, pair(CLIENT, PORT_OF_NODE))
    assert translated(table, pair(POD, NODE), socket=[7]) == [pair(POD, NODE)]


def test_the_other_ends_rows_get_what_a_first_end_elsewhere_sees():
    assert translated(table_of(FULL), pair(POD, NODE)) == [pair(PORT_OF_NODE, CLIENT)]
    assert translated(table_of(DNAT), pair(POD, CLIENT)) == [pair(SERVICE, CLIENT)]


def test_rows_of_others_keep_theirs_and_the_tables_that_need_none_stay_as_they_are():
    table = table_of(DNAT)
    tables = {"tcp": rows(pair(CLIENT, POD)), "drops": empty_columns(1, "drops"), "udp": rows(table="udp")}
    given = table.translate(tables)
    assert given["drops"] is tables["drops"]
    assert pairs_of(given["tcp"]) == [pair(CLIENT, POD)]
    assert translated(table, pair(CLIENT, SERVICE), name="udp") == [pair(CLIENT, SERVICE)], "another protocol"
    assert translated(Translations({NAMESPACE}), pair(CLIENT, SERVICE)) == [pair(CLIENT, SERVICE)]


def test_all_tables_with_endpoints_are_translated_alike_and_keep_all_else():
    table = table_of(DNAT, (*DNAT, UDP))
    given = {
        "tcp": rows(pair(CLIENT, POD), pair(CLIENT, SERVICE), bytes_sent=[5, 6]),
        "udp": rows(pair(CLIENT, SERVICE), table="udp"),
        "dns": rows(pair(CLIENT, SERVICE), pair(CLIENT, SERVICE), table="dns", transport=[TCP, UDP]),
        "http": rows(pair(CLIENT, SERVICE), table="http", requests=[3]),
        "bins": rows(pair(CLIENT, SERVICE), table="bins", transport=[TCP]),
    }
    found = table.translate(given)
    assert {pair for table in found.values() for pair in pairs_of(table)} == {pair(CLIENT, POD)}
    assert found["tcp"]["bytes_sent"].tolist() == [5, 6]
    assert found["http"]["requests"].tolist() == [3]
    assert all(found[name][c].dtype == given[name][c].dtype for name in given for c in given[name])


def test_udp_rows_of_packets_already_translated_are_one_flow_with_the_others():
    """Programs on packets see those that leave after the translation, and those that arrive before or after it."""
    forms = (pair(CLIENT, PORT_OF_NODE), pair(NODE, POD), pair(POD, NODE), pair(PORT_OF_NODE, CLIENT))
    first, other = [pair(NODE, POD)] * 2, [pair(POD, NODE)] * 2
    assert translated(table_of((*FULL, UDP)), *forms, name="udp") == first + other
    sending_only = (pair(NODE, POD), pair(POD, NODE))
    assert translated(table_of((*FULL, UDP)), *sending_only, name="udp") == [pair(NODE, POD), pair(POD, NODE)]
    elsewhere = forms[2:]
    assert translated(table_of((*FULL, UDP)), *elsewhere, name="udp") == [pair(PORT_OF_NODE, CLIENT)] * 2


def test_dropped_packets_are_of_the_flow_however_far_they_came():
    forms = (pair(CLIENT, PORT_OF_NODE), pair(NODE, POD), pair(POD, NODE), pair(PORT_OF_NODE, CLIENT))
    there, back = pair(CLIENT, PORT_OF_NODE), pair(PORT_OF_NODE, CLIENT)
    transports = {"transport": [TCP] * 4, "socket": [0] * 4}
    table = table_of(FULL)
    assert translated(table, *forms, name="drops", **transports) == [there, there, back, back]
    translated(table, pair(CLIENT, PORT_OF_NODE), socket=[7])
    there, back = pair(NODE, POD), pair(POD, NODE)
    assert translated(table, *forms, name="drops", **transports) == [there, there, back, back]


def test_ipv6():
    client, service, pod = ("fd00::1", 1), ("fd00:96::1", 80), ("fd00:1::7", 8080)
    table = table_of((pair(client, service), pair(client, pod)))
    assert translated(table, pair(client, service)) == [pair(client, pod)]


def test_it_is_kept_for_rows_that_come_after_its_end():
    table = table_of(DNAT)
    table.update(connections((*DNAT, TCP, True)), NAMESPACE, 2 * SECOND_NS)
    table.forget(2 * SECOND_NS + KEPT_NS - 1)
    assert translated(table, pair(CLIENT, SERVICE), closed=[1]) == [pair(CLIENT, POD)]
    table.forget(2 * SECOND_NS + KEPT_NS)
    assert len(table) == 0
    assert translated(table, pair(CLIENT, SERVICE), pair(POD, CLIENT)) == [pair(CLIENT, SERVICE), pair(POD, CLIENT)]


def test_the_last_rows_of_a_namespace_that_is_gone_are_still_translated():
    table = table_in_a_row((DNAT, NAMESPACE), (IN_POD, POD_NAMESPACE))
    table.end(POD_NAMESPACE, 2 * SECOND_NS)
    last = {"network_namespace": [POD_NAMESPACE], "closed": [1]}
    table.forget(2 * SECOND_NS + KEPT_NS - 1)
    assert translated(table, pair(IN_PROXY, CLIENT), **last) == [pair(SERVICE, CLIENT)]
    table.forget(2 * SECOND_NS + KEPT_NS)
    assert translated(table, pair(IN_PROXY, CLIENT), **last) == [pair(IN_PROXY, CLIENT)]


def test_one_that_began_and_ended_between_two_reads_is_known():
    table = table_of(DNAT, (*DNAT, TCP, True))
    assert translated(table, pair(CLIENT, SERVICE)) == [pair(CLIENT, POD)]
    table.forget(SECOND_NS + KEPT_NS)
    assert len(table) == 0


def test_a_socket_keeps_what_it_got_while_it_lives():
    table = table_of(DNAT, FULL)
    mine = {"socket": [77, 78]}
    ends = (pair(CLIENT, SERVICE), pair(POD, NODE))
    got = [pair(CLIENT, POD), pair(PORT_OF_NODE, CLIENT)]
    assert translated(table, *ends, **mine) == got
    table.update(connections((*DNAT, TCP, True), (*FULL, TCP, True)), NAMESPACE, SECOND_NS)
    table.forget(2 * SECOND_NS + KEPT_NS)
    table.update(connections((DNAT[0], pair(CLIENT, ("10.1.0.8", 8080)))), NAMESPACE, SECOND_NS)
    assert translated(table, *ends, **mine) == got
    assert translated(table, *ends, closed=[1, 1], **mine) == got
    assert translated(table, *ends, **mine) == [pair(CLIENT, ("10.1.0.8", 8080)), ends[1]], "it had ended"


def test_a_socket_that_connects_again_gets_what_it_has_then():
    table = table_of(DNAT)
    assert translated(table, pair(CLIENT, SERVICE), socket=[77]) == [pair(CLIENT, POD)]
    assert translated(table, pair(CLIENT, NODE), socket=[77]) == [pair(CLIENT, NODE)]


def test_a_port_used_again_has_its_latest_translation():
    table = table_of(DNAT)
    table.update(connections((DNAT[0], pair(CLIENT, ("10.1.0.8", 8080)))), NAMESPACE, SECOND_NS)
    assert translated(table, pair(CLIENT, SERVICE)) == [pair(CLIENT, ("10.1.0.8", 8080))]
    assert translated(table, pair(POD, CLIENT)) == [pair(POD, CLIENT)], "the answers of before are forgotten"


def test_loopback_addresses_mean_something_in_their_namespace_alone():
    local = ("127.0.0.1", 4000)
    redirected = (pair(local, ("127.0.0.1", 80)), pair(local, ("127.0.0.1", 8080)))
    table = table_of(redirected)
    given = translated(table, redirected[0], redirected[0], network_namespace=[NAMESPACE, POD_NAMESPACE])
    assert given == [redirected[1], redirected[0]]


@pytest.mark.parametrize("name", ["tcp", "udp"])
def test_a_pod_whose_service_is_a_program_on_the_nodes_loopback_is_one_flow_with_it(name):
    program = ("127.0.0.1", 8082)
    table = table_of((pair(POD, SERVICE), pair(POD, program), UDP if name == "udp" else TCP))
    namespaces = [POD_NAMESPACE, NAMESPACE]
    given = translated(table, pair(POD, SERVICE), pair(program, POD), name=name, network_namespace=namespaces)
    assert given == [pair(POD, SERVICE), pair(SERVICE, POD)]
    given = translated(table, pair(program, POD), name=name)
    assert given == [pair(SERVICE, POD)], "also where its row comes later"


PROXY, IN_PROXY = ("127.0.0.1", 15001), ("10.1.0.7", 15006)
IN_POD = (pair(CLIENT, POD), pair(CLIENT, IN_PROXY))
OUTWARD = (pair(NODE, POD), pair(NODE, IN_PROXY))


def table_in_a_row(*namespaces, protocol=TCP):
    """Translated by the machine, by one entry, and in the pod, by the other, which come in either order."""
    table = Translations({NAMESPACE})
    for entry, namespace in namespaces:
        table.update(connections((*entry, protocol)), namespace, SECOND_NS)
    return table


@pytest.mark.parametrize("name", ["tcp", "udp"])
@pytest.mark.parametrize("order", [1, -1])
def test_one_translated_by_the_machine_and_by_the_pod_goes_from_end_to_end(name, order):
    protocol = TCP if name == "tcp" else UDP
    for outer, inner in ((DNAT, IN_POD), (FULL, OUTWARD)):
        table = table_in_a_row(*((outer, NAMESPACE), (inner, POD_NAMESPACE))[::order], protocol=protocol)
        here, there = outer[0], pair(IN_PROXY, inner[1][:2])
        for client in (NAMESPACE, OTHER_NAMESPACE):
            namespaces = [POD_NAMESPACE, client][::order]
            given = translated(table, *(there, here)[::order], name=name, network_namespace=namespaces)
            assert given == [pair(POD, inner[0][:2]), outer[1]][::order], "both ends are on this machine"
        table = table_in_a_row((outer, NAMESPACE), (inner, POD_NAMESPACE), protocol=protocol)
        given = translated(table, there, name=name, network_namespace=[POD_NAMESPACE])
        assert given == [pair(outer[0][2:], CLIENT)], "the first end is elsewhere"


def test_a_pods_redirect_to_its_own_proxy_is_one_flow():
    table = Translations({NAMESPACE})
    table.update(connections((pair(POD, SERVICE), pair(POD, PROXY))), POD_NAMESPACE, SECOND_NS)
    given = translated(table, pair(POD, SERVICE), pair(PROXY, POD), network_namespace=[POD_NAMESPACE] * 2)
    assert given == [pair(POD, PROXY), pair(PROXY, POD)]


def test_a_pod_translates_first_what_the_machine_then_does():
    nested = (pair(CLIENT, ("10.96.1.1", 80)), DNAT[0])
    table = table_in_a_row((nested, OTHER_NAMESPACE), (DNAT, NAMESPACE), (IN_POD, POD_NAMESPACE))
    dialled, proxied = nested[0], pair(IN_PROXY, CLIENT)
    given = translated(table, dialled, proxied, network_namespace=[OTHER_NAMESPACE, POD_NAMESPACE])
    assert given == [DNAT[1], pair(POD, CLIENT)]


def test_what_a_namespace_translates_changes_no_rows_of_others():
    forged = pair(("192.0.2.1", 1), ("192.0.2.2", 2))
    entries = [(each, forged) for each in (*DNAT, IN_POD[1])] + [(forged, each) for each in (*DNAT, IN_POD[1])]
    table = table_in_a_row((DNAT, NAMESPACE), (IN_POD, POD_NAMESPACE))
    ends = (DNAT[0], DNAT[0], pair(IN_PROXY, CLIENT), pair(POD, CLIENT))
    namespaces = {"network_namespace": [NAMESPACE, POD_NAMESPACE, POD_NAMESPACE, NAMESPACE]}
    asked = [{"name": name, "transport": [TCP] * 4} if name == "drops" else {} for name in ("tcp", "drops")]
    before = [translated(table, *ends, **namespaces, **each, socket=[0] * 4) for each in asked]
    for ended in (False, True):
        table.update(connections(*((*each, TCP, ended) for each in entries)), OTHER_NAMESPACE, SECOND_NS)
        table.forget(SECOND_NS + KEPT_NS)
        assert [translated(table, *ends, **namespaces, **each, socket=[0] * 4) for each in asked] == before
    assert before[0] == [DNAT[1], DNAT[1], pair(POD, CLIENT), pair(POD, CLIENT)]


def test_named_namespaces_translate_for_each_other_as_one():
    table = Translations({NAMESPACE, POD_NAMESPACE})
    table.update(connections(DNAT), NAMESPACE, SECOND_NS)
    given = translated(table, DNAT[0], pair(POD, CLIENT), network_namespace=[POD_NAMESPACE, OTHER_NAMESPACE])
    assert given == [DNAT[1], pair(POD, CLIENT)]


@pytest.mark.parametrize("name", ["tcp", "udp"])
def test_a_row_goes_through_all_that_named_namespaces_translate(name):
    table = Translations({NAMESPACE, POD_NAMESPACE})
    protocol = TCP if name == "tcp" else UDP
    table.update(connections((*DNAT, protocol)), NAMESPACE, SECOND_NS)
    table.update(connections((*IN_POD, protocol)), POD_NAMESPACE, SECOND_NS)
    redirected = {"name": name, "network_namespace": [POD_NAMESPACE]}
    proxied = pair(IN_PROXY, CLIENT)
    assert translated(table, proxied, **redirected) == [pair(SERVICE, CLIENT)], "the first end is elsewhere"
    both = {"name": name, "network_namespace": [POD_NAMESPACE, NAMESPACE], "socket": [7, 8]}
    given = translated(table, proxied, DNAT[0], **both)
    assert given == [proxied, pair(CLIENT, IN_PROXY)], "both ends are on this machine"


def test_a_named_namespaces_service_is_masqueraded_by_the_machine():
    dialled, chosen, outside = pair(POD, SERVICE), pair(POD, CLIENT), pair(NODE, CLIENT)
    table = Translations({NAMESPACE, POD_NAMESPACE})
    table.update(connections((dialled, chosen)), POD_NAMESPACE, SECOND_NS)
    table.update(connections((chosen, outside)), NAMESPACE, SECOND_NS)
    assert translated(table, dialled, network_namespace=[POD_NAMESPACE]) == [outside]


def test_events_of_several_namespaces_come_together():
    elsewhere = (pair(("10.0.0.3", 1), SERVICE), pair(("10.0.0.3", 1), POD))
    table = Translations({NAMESPACE})
    namespaces = np.array([NAMESPACE, POD_NAMESPACE, NAMESPACE], np.uint32)
    table.update(connections(DNAT, elsewhere, FULL), namespaces, SECOND_NS)
    table.end(POD_NAMESPACE, SECOND_NS)
    table.forget(SECOND_NS + KEPT_NS)
    given = translated(table, DNAT[0], elsewhere[0], network_namespace=[NAMESPACE, POD_NAMESPACE])
    assert given == [DNAT[1], elsewhere[0]]


def test_a_dump_ends_what_it_does_not_tell_in_its_namespace():
    other = (pair(("10.0.0.2", 1), SERVICE), pair(("10.0.0.2", 1), POD))
    elsewhere = (pair(("10.0.0.3", 1), SERVICE), pair(("10.0.0.3", 1), POD))
    table = table_of(DNAT, other)
    table.update(connections(elsewhere), POD_NAMESPACE, SECOND_NS)
    table.replace(connections(DNAT, DNAT), NAMESPACE, 2 * SECOND_NS)
    table.forget(2 * SECOND_NS + KEPT_NS)
    assert len(table) == 2
    namespaces = [NAMESPACE, NAMESPACE, POD_NAMESPACE]
    given = translated(table, DNAT[0], other[0], elsewhere[0], network_namespace=namespaces)
    assert given == [DNAT[1], other[0], elsewhere[1]]
    table.update(connections(other), NAMESPACE, 3 * SECOND_NS)
    table.replace(connections(), NAMESPACE, 4 * SECOND_NS)
    table.forget(4 * SECOND_NS + KEPT_NS)
    assert len(table) == 1


def test_beyond_its_limits_it_counts_and_goes_on():
    table = table_of(DNAT, FULL, most=1)
    assert (len(table), table.untracked) == (1, 1)
    table.update(connections((*DNAT, TCP, True), (*FULL, TCP, True)), NAMESPACE, SECOND_NS)
    table.forget(SECOND_NS + KEPT_NS)
    table.update(connections(FULL), NAMESPACE, SECOND_NS)
    assert translated(table, FULL[0]) == [FULL[1]]


def test_what_other_namespaces_translate_leaves_the_machine_half_of_the_room():
    table = Translations({NAMESPACE}, most=4)
    for number in range(4):
        table.update(connections((pair(POD, (SERVICE[0], number)), pair(POD, PROXY))), POD_NAMESPACE, SECOND_NS)
    assert (len(table), table.untracked) == (2, 2)
    table.update(connections(DNAT, FULL), NAMESPACE, SECOND_NS)
    assert (len(table), table.untracked) == (4, 2)


def test_a_dump_of_another_namespace_gets_no_more_than_what_is_left_of_half_of_the_room():
    dump = connections(*((pair(POD, (SERVICE[0], number)), pair(POD, PROXY)) for number in range(4)))
    table = Translations({NAMESPACE}, most=6)
    table.replace(dump, POD_NAMESPACE, SECOND_NS)
    assert (len(table), table.untracked) == (3, 1)
    table = Translations({NAMESPACE}, most=6)
    table.update(connections(DNAT, FULL, (*DNAT, UDP)), NAMESPACE, SECOND_NS)
    for _ in range(2):
        untracked = table.untracked
        table.replace(dump, POD_NAMESPACE, SECOND_NS)
        assert (len(table), table.untracked) == (6, untracked + 1), "what the machine has takes nothing from theirs"
    table.end(POD_NAMESPACE, SECOND_NS)
    table.forget(SECOND_NS + KEPT_NS)
    table.update(dump[:1], OTHER_NAMESPACE, SECOND_NS)
    table.update(dump, POD_NAMESPACE, SECOND_NS)
    assert (len(table), table.untracked) == (6, 4)


def test_sockets_beyond_those_that_keep_what_they_got_are_counted(monkeypatch):
    monkeypatch.setattr(translations, "ChosenEndpoints", lambda: ChosenEndpoints(most=1))
    table = table_of(DNAT, FULL)
    assert translated(table, DNAT[0], FULL[0]) == [DNAT[1], FULL[1]]
    assert table.untracked == 1


@pytest.mark.parametrize("seed", range(5))
def test_many_in_any_order_agree_with_a_dictionary(seed, monkeypatch):
    monkeypatch.setattr(translations, "KEPT_NS", 10)
    random = np.random.default_rng(seed)
    table, truth = Translations({NAMESPACE}), {}
    for now_ns in range(1, 60):
        events = []
        for client in random.integers(0, 40, random.integers(0, 30)).tolist():
            original = pair(("10.0.0.1", 1000 + client), SERVICE)
            moved = pair(("10.0.0.9", 5000 + client), (f"10.1.0.{random.integers(1, 9)}", 8080))
            ended = bool(random.integers(0, 2))
            events.append((original, moved, TCP, ended))
            truth[original] = (moved, now_ns if ended else None)
        table.update(connections(*events), NAMESPACE, now_ns)
        table.forget(now_ns)
        truth = {key: value for key, value in truth.items() if value[1] is None or value[1] > now_ns - 10}
        assert len(table) == len(truth)
        asked = [pair(("10.0.0.1", 1000 + client), SERVICE) for client in range(40)]
        answers = translated(table, *asked, closed=[1] * 40)
        assert answers == [truth[each][0] if each in truth else each for each in asked]
