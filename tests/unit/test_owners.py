import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.addresses import address_text, packed
from reducer.knowledge import owners as module
from reducer.knowledge.owners import UNKNOWN_OWNER, Owners
from tests.rows import session_id

HOST = intake_pb2.Host(name="node")


def entities(**names):
    """Return processes by name = id."""
    return intake_pb2.Entities(processes=[intake_pb2.Process(id=number, name=name) for name, number in names.items()])


def both(entities, others):
    entities.MergeFrom(others)
    return entities


def of(owners, *processes, session=0):
    return owners.of(session_id(session), np.array(processes, np.uint32), np.zeros(len(processes), np.uint64)).tolist()


def described(owners, number):
    owner = owners.view().owners[number]
    return owner.host.name, owner.process


def test_rows_get_the_owner_of_their_process():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.snapshot(session_id(0), entities(nginx=5, wget=3))
    nginx, wget, unnamed, none = of(owners, 5, 3, 4, 0)
    assert [described(owners, number) for number in (nginx, wget, unnamed)] == [
        ("node", "nginx"),
        ("node", "wget"),
        ("node", ""),
    ]
    assert none == unnamed != UNKNOWN_OWNER


def test_equal_names_on_a_host_are_one_owner_and_on_two_hosts_two():
    owners = Owners()
    for session in (0, 1):
        owners.hello(session_id(session), HOST)
        owners.snapshot(session_id(session), entities(nginx=5) if session else entities(nginx=1))
    owners.learn(session_id(0), entities(nginx=2))
    assert of(owners, 1) == of(owners, 2)
    assert of(owners, 1) != of(owners, 5, session=1)


def test_a_snapshot_replaces_and_retired_processes_go():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.snapshot(session_id(0), entities(a=1, b=2))
    a, b, unnamed = of(owners, 1, 2, 0)
    owners.retire(session_id(0), intake_pb2.Entities(retired_processes=[2, 77]))
    assert of(owners, 1, 2) == [a, unnamed]
    owners.snapshot(session_id(0), entities(b=2))
    assert of(owners, 1, 2) == [unnamed, b]


def test_snapshots_in_parts_replace_once_the_last_has_come():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.snapshot(session_id(0), both(entities(a=1, b=2, c=3), cgroups(7, 8)))
    a, b, c, unnamed = of(owners, 1, 2, 3, 0)
    owners.snapshot(session_id(0), both(entities(b=2), cgroups(8)), partial=True)
    owners.learn(session_id(0), entities(d=4))
    assert of(owners, 1, 2, 3) == [a, b, c]
    owners.snapshot(session_id(0), entities(c=3))
    assert of(owners, 1, 2, 3, 4) == [unnamed, b, c, unnamed]
    assert [owner.cgroup and owner.cgroup.id for owner in of_cgroup(owners, (0, 7), (0, 8))] == [None, 8]
    owners.snapshot(session_id(0), entities(a=1), partial=True)
    owners.hello(session_id(0), HOST)  # cut off: what comes now is another snapshot
    owners.snapshot(session_id(0), entities(b=2))
    assert of(owners, 1, 2) == [unnamed, b]


def test_another_host_in_a_session_is_another_owner():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    before = of(owners, 0)
    owners.hello(session_id(0), HOST)
    assert of(owners, 0) == before
    owners.hello(session_id(0), intake_pb2.Host(name="renamed"))
    assert described(owners, of(owners, 0)[0]) == ("renamed", "")


def test_who_was_heard():
    owners = Owners()
    for session in (0, 1):
        owners.hello(session_id(session), HOST)
    owners.heard(session_id(0), 100)
    owners.heard(session_id(0), 50)
    (first,), (second,) = of(owners, 0), of(owners, 0, session=1)
    view = owners.view()
    owners.heard(session_id(0), 500)
    assert view.heard(100)[[UNKNOWN_OWNER, first, second]].tolist() == [False, True, False]
    assert view.heard(101)[first].tolist() is False
    assert view.gone(100)[[UNKNOWN_OWNER, first, second]].tolist() == [False, False, True]


def test_too_many_processes_are_counted_and_have_no_name(monkeypatch):
    monkeypatch.setattr(module, "MOST_PROCESSES", 2)
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.snapshot(session_id(0), entities(a=1, b=2, c=3))
    assert owners.processes_refused == 1
    assert of(owners, 3) == of(owners, 0)
    monkeypatch.setattr(module, "MOST_OWNERS", len(owners))
    owners.learn(session_id(0), entities(d=1))
    assert of(owners, 1) == of(owners, 0)
    assert owners.processes_refused == 2


def test_owners_that_nothing_refers_to_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_BEFORE_COLLECTION", 10)
    owners = Owners()
    owners.hello(session_id(0), HOST)
    kept_in_rows = 0
    for session in range(1, 200):
        owners.hello(session_id(session), HOST)
        owners.snapshot(session_id(session), entities(a=1))
        kept_in_rows = kept_in_rows or of(owners, 1, session=session)[0]
        owners.heard(session_id(0), session)
        owners.collect([np.array([kept_in_rows], np.uint32)])
    assert owners.sessions < 200
    assert len(owners) < 3 * 200
    assert described(owners, kept_in_rows) == ("node", "a")
    view = owners.view()
    assert view.gone(10**9)[of(owners, 0)[0]]
    assert not view.gone(10**9)[kept_in_rows]
    assert view.generation > 0
    assert len(view.owners) <= 3 * 130


def test_each_of_many_short_processes_of_a_long_session_has_its_name():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    each, in_use = 20_000, np.empty(0, np.uint32)
    for first in range(1, 200_001, each):
        processes = np.arange(first, first + each, dtype=np.uint32)
        told = [intake_pb2.Process(id=number, name=f"job-{number}") for number in processes.tolist()]
        owners.learn(session_id(0), intake_pb2.Entities(processes=told))
        numbers = owners.of(session_id(0), processes, np.zeros(each, np.uint64))
        of_all = owners.view().owners
        assert [of_all[number].process for number in numbers.tolist()] == [process.name for process in told]
        assert [of_all[number].process for number in in_use.tolist()] == [f"job-{first - 1}"] * len(in_use)
        owners.retire(session_id(0), intake_pb2.Entities(retired_processes=processes.tolist()))
        in_use = numbers[-1:]
        owners.collect([in_use])
    assert owners.processes_refused == 0
    assert len(owners) < 65_536


def test_where_all_sessions_have_many_owners_each_keeps_those_in_use(monkeypatch):
    monkeypatch.setattr(module, "MOST_OWNERS", 100)
    monkeypatch.setattr(module, "_LEAST_BEFORE_COLLECTION", 10)
    owners = Owners()
    for session in range(3):
        owners.hello(session_id(session), HOST)
        owners.snapshot(session_id(session), entities(**{f"p{number}": number for number in range(1, 31)}))
        of(owners, *range(1, 31), session=session)
    kept = of(owners, 7, session=1)
    owners.collect([np.array(kept, np.uint32)])
    assert of(owners, 7, session=1) == kept
    assert len(owners) == 3 + len(kept)
    assert described(owners, of(owners, 9, session=2)[0]) == ("node", "p9")


def test_loopback_scopes_are_the_same_after_a_restart():
    def scope(*sessions):
        owners = Owners()
        for session in sessions:
            owners.hello(session_id(session), HOST)
        view = owners.view()
        return view.scope[view.session[of(owners, 0, session=1)[0]]]

    assert scope(0, 1) == scope(1) != 0


def cgroups(*ids, **fields):
    return intake_pb2.Entities(cgroups=[intake_pb2.Cgroup(id=number, **fields) for number in ids])


def of_cgroup(owners, *pairs):
    process, cgroup = zip(*pairs, strict=True)
    numbers = owners.of(session_id(0), np.array(process, np.uint32), np.array(cgroup, np.uint64))
    return [owners.view().owners[number] for number in numbers]


def test_the_sockets_own_cgroup_comes_before_that_of_its_process():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    told = cgroups(7, 1 << 63)
    told.processes.add(id=1, name="a", service="web", cgroup=1 << 63)
    told.processes.add(id=2, name="a", cgroup=99)
    owners.learn(session_id(0), told)
    found = of_cgroup(owners, (1, 7), (1, 0), (1, 55), (2, 0), (0, 7))
    assert [owner.cgroup.id if owner.cgroup else 0 for owner in found] == [7, 1 << 63, 1 << 63, 0, 7]
    assert [(owner.process, owner.service) for owner in found] == [("a", "web")] * 3 + [("a", ""), ("", "")]


def test_a_process_that_nothing_is_known_of_is_the_hosts():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    assert of(owners, 0, 5) == of(owners, 0, 0)
    owners.learn(session_id(0), cgroups(7))
    assert of(owners, 0, 5) == of(owners, 0, 0)


def test_what_is_known_later_holds_for_rows_that_have_come():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.learn(session_id(0), cgroups(7))
    (number,) = owners.of(session_id(0), np.zeros(1, np.uint32), np.array([7], np.uint64))
    before = owners.view()
    owners.learn(session_id(0), cgroups(7, container_name="web"))
    after = owners.view()
    assert after.owners[number].cgroup.container_name == "web"
    assert (after.revision[number], before.revision[number]) == (1, 0)
    owners.snapshot(session_id(0), cgroups(7, container_name="web"))
    assert owners.view().revision[number] == 1


def test_cgroups_that_are_retired_or_not_in_a_snapshot_are_forgotten():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.learn(session_id(0), cgroups(7, 8))
    seven, eight = of_cgroup(owners, (0, 7), (0, 8))
    owners.retire(session_id(0), intake_pb2.Entities(retired_cgroups=[7, 99]))
    assert [owner.cgroup and owner.cgroup.id for owner in of_cgroup(owners, (0, 7), (0, 8))] == [None, 8]
    owners.snapshot(session_id(0), intake_pb2.Entities())
    assert [owner.cgroup for owner in of_cgroup(owners, (0, 7), (0, 8))] == [None, None]
    assert (seven.cgroup.id, eight.cgroup.id) == (7, 8)


def test_owners_of_containers_that_are_gone_are_freed(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_BEFORE_COLLECTION", 10)
    owners = Owners()
    owners.hello(session_id(0), HOST)
    for number in range(2, 200):
        owners.learn(session_id(0), cgroups(number))
        of_cgroup(owners, (0, number))
        owners.retire(session_id(0), intake_pb2.Entities(retired_cgroups=[number]))
        owners.collect([])
    assert len(owners) < 30


def test_too_many_cgroups_and_owners_are_counted_and_have_no_name(monkeypatch):
    monkeypatch.setattr(module, "MOST_CGROUPS", 2)
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.learn(session_id(0), cgroups(7, 8, 9))
    assert owners.cgroups_refused == 1
    monkeypatch.setattr(module, "MOST_PROCESSES", 1)
    found = of_cgroup(owners, (0, 7)) + of_cgroup(owners, (0, 8), (0, 9))
    assert [owner.cgroup and owner.cgroup.id for owner in found] == [7, None, None]
    assert owners.processes_refused == 1


def test_a_session_that_is_known_no_more_is_kept_only_for_its_rows(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_BEFORE_COLLECTION", 4)
    owners = Owners()
    for number in range(100):
        owners.hello(session_id(number), HOST)
        owners.learn(session_id(number), entities(a=1))
        owners.forget(session_id(number))
        owners.collect([])
    assert owners.sessions < 12
    for number in range(100, 103):
        owners.hello(session_id(number), HOST)
        owners.forget(session_id(number))
    owners.hello(session_id(100), HOST)  # it came back
    for _ in range(5):
        owners._collect_at = 0
        owners.collect([])
    assert owners.sessions == 1


def test_names_that_take_too_much_are_counted_and_have_no_name(monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 2 * 500)
    owners = Owners()
    long = "x" * 200
    for number in range(3):
        owners.hello(session_id(number), HOST)
        owners.learn(session_id(number), entities(**{long: 1}))
    assert owners.processes_refused == 1
    assert [owners.view().owners[of(owners, 1, session=number)[0]].process for number in range(3)] == [long, long, ""]
    owners.learn(session_id(0), entities(**{long: 1}))  # what is known may be told again
    owners.learn(session_id(2), cgroups(7, service=long))
    assert (owners.processes_refused, owners.cgroups_refused) == (1, 1)
    owners.retire(session_id(0), intake_pb2.Entities(retired_processes=[1, 1, 99]))
    owners.learn(session_id(2), cgroups(7, service=long))
    assert owners.cgroups_refused == 1
    owners.learn(session_id(2), cgroups(7, service=f"{long}y" * 2))
    assert owners.cgroups_refused == 2
    owners.retire(session_id(2), intake_pb2.Entities(retired_cgroups=[7, 7, 99]))
    owners.hello(session_id(1), intake_pb2.Host(name="another"))
    assert owners._bytes == 0


def test_ids_that_mean_nothing_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(module, "MOST_PROCESSES", 100)
    owners = Owners()
    owners.hello(session_id(0), HOST)
    for start in range(0, 10_000, 50):
        assert set(of(owners, *range(start, start + 50))) == set(of(owners, 0))
    assert len(owners) == 1


def test_what_is_known_of_the_host_later_holds_for_rows_that_have_come():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    owners.learn(session_id(0), entities(nginx=5))
    numbers = of(owners, 5, 0)
    owners.learn(session_id(0), intake_pb2.Entities(host=intake_pb2.Host(name="node", zone="eu-1a")))
    view = owners.view()
    assert [view.owners[number].host.zone for number in numbers] == ["eu-1a", "eu-1a"]
    assert view.revision[numbers].tolist() == [1, 1]
    assert of(owners, 5, 0) == numbers
    owners.hello(session_id(0), intake_pb2.Host(name="node", zone="eu-1a"))
    assert of(owners, 5, 0) == numbers


def test_addresses_of_machines_are_those_of_the_owners_asked_for_within_a_bound(monkeypatch):
    owners = Owners()
    for number in range(3):
        addresses = [packed(f"10.0.{number}.{last}") for last in range(2)]
        owners.hello(session_id(number), intake_pb2.Host(addresses=addresses))
    asked = np.array([UNKNOWN_OWNER, *of(owners, 0, session=0), *of(owners, 0, session=2)])

    def found():
        addresses, left_out = owners.view().addresses(asked)
        return [address_text(address.tobytes()) for address in addresses], left_out

    assert found() == (["10.0.0.0", "10.0.0.1", "10.0.2.0", "10.0.2.1"], 0)
    monkeypatch.setattr(module, "MOST_ADDRESSES", 3)
    assert found() == (["10.0.0.0", "10.0.0.1", "10.0.2.0"], 1)
