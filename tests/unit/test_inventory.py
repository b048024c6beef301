from ebpf_net.v1 import intake_pb2
from hypothesis import given
from hypothesis import strategies as st

from cloud_collector.inventory import Inventory
from cloud_collector.provider import Scope, Scopes

EAST, WEST = Scope("aws", "", "us-east-1"), Scope("aws", "", "us-west-2")


def interface(name, role="web"):
    return intake_pb2.CloudInterface(id=name, provider="aws", role=role)


def taken(inventory):
    """Roles by id of what changed, and what is gone."""
    changed, gone = {}, set()
    for entities in inventory.take_changes():
        changed |= {each.id: each.role for each in entities.cloud_interfaces}
        gone |= set(entities.retired_cloud_interfaces)
    return changed, gone


def known(inventory):
    return {each.id: each.role for entities in inventory.snapshot() for each in entities.cloud_interfaces}


def test_only_changes_are_told():
    inventory = Inventory()
    inventory.replace(EAST, [interface("a"), interface("b")])
    assert taken(inventory) == ({"a": "web", "b": "web"}, set())
    inventory.replace(EAST, [interface("a"), interface("b", "db")])
    assert taken(inventory) == ({"b": "db"}, set())
    inventory.replace(EAST, [interface("b", "db")])
    assert taken(inventory) == ({}, {"a"})
    assert taken(inventory) == ({}, set())
    assert known(inventory) == {"b": "db"}


def test_a_scope_that_is_gone_has_nothing_and_others_keep_what_they_have():
    inventory = Inventory()
    inventory.replace(EAST, [interface("a")])
    inventory.replace(WEST, [interface("b")])
    taken(inventory)
    inventory.keep(Scopes([EAST], {}), "gcp")
    assert taken(inventory) == ({}, set())
    inventory.keep(Scopes([WEST], {}), "aws")
    assert taken(inventory) == ({}, {"a"})


def test_an_interface_that_two_scopes_hold_is_told_once_and_stays_while_one_does():
    inventory = Inventory()
    inventory.replace(EAST, [interface("shared", "owner")])
    inventory.replace(WEST, [interface("shared", "participant")])
    assert taken(inventory) == ({"shared": "owner"}, set())
    inventory.replace(EAST, [])
    assert taken(inventory) == ({"shared": "participant"}, set())


def test_interfaces_beyond_the_bound_are_counted():
    inventory = Inventory(most=3)
    inventory.replace(EAST, [interface(name) for name in "ab"])
    inventory.replace(WEST, [interface(name) for name in "cde"])
    assert len(inventory) == 3
    assert inventory.untracked == 2
    inventory.replace(EAST, [])
    inventory.replace(WEST, [interface(name) for name in "cde"])
    assert inventory.untracked == 0
    assert set(known(inventory)) == set()
    assert taken(inventory)[0].keys() == {"c", "d", "e"}


readings = st.lists(
    st.tuples(
        st.sampled_from([EAST, WEST]),
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["web", "db"])),
        st.booleans(),
    ),
    max_size=12,
)


@given(readings)
def test_who_takes_all_changes_knows_what_was_read_last(steps):
    inventory, told, last = Inventory(), {}, {}
    for scope, found, take in steps:
        inventory.replace(scope, [interface(scope.region + name, role) for name, role in found.items()])
        last[scope] = {scope.region + name: role for name, role in found.items()}
        if take:
            changed, gone = taken(inventory)
            told = {name: role for name, role in (told | changed).items() if name not in gone}
    changed, gone = taken(inventory)
    told = {name: role for name, role in (told | changed).items() if name not in gone}
    assert told == {name: role for found in last.values() for name, role in found.items()} == known(inventory)
