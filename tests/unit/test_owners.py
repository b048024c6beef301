import numpy as np
from ebpf_net.v1 import intake_pb2

from reducer import owners as module
from reducer.owners import UNKNOWN_OWNER, Owners
from tests.strategies import session_id

HOST = intake_pb2.Host(name="node")


def entities(**names):
    """Return processes by name = id."""
    return intake_pb2.Entities(processes=[intake_pb2.Process(id=number, name=name) for name, number in names.items()])


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


def test_loopback_scopes_are_the_same_after_a_restart():
    def scope(*sessions):
        owners = Owners()
        for session in sessions:
            owners.hello(session_id(session), HOST)
        view = owners.view()
        return view.scope[view.session[of(owners, 0, session=1)[0]]]

    assert scope(0, 1) == scope(1) != 0
