"""The table of names and addresses, by a clock of its own."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from kernel_collector.dns.answers import Answer
from kernel_collector.dns.named_addresses import NamedAddresses

ONE, TWO, THREE = (bytes(15) + bytes([number]) for number in (1, 2, 3))


def message(name, ttl, *addresses):
    return intake_pb2.DnsName(name=name, ttl=ttl, addresses=addresses)


def test_an_answer_is_announced_once_and_reminded_of_while_it_holds():
    table = NamedAddresses()
    table.learn(Answer("a", (ONE, TWO), 60), 100)
    assert table.take_changes() == [message("a", 60, ONE, TWO)]
    assert table.take_changes() == []
    assert list(table.messages(130)) == [message("a", 30, ONE, TWO)]
    assert list(table.messages(160)) == []


def test_what_a_cache_says_later_is_nothing_new_but_a_longer_time_is():
    table = NamedAddresses()
    table.learn(Answer("a", (ONE,), 60), 100)
    table.take_changes()
    table.learn(Answer("a", (ONE,), 31), 130)  # a cache rounds up
    assert table.take_changes() == []
    table.learn(Answer("a", (ONE,), 60), 130)
    assert table.take_changes() == [message("a", 60, ONE)]


def test_the_later_name_of_an_address_takes_its_place():
    table = NamedAddresses()
    table.learn(Answer("a", (ONE, TWO), 60), 100)
    table.learn(Answer("b", (TWO,), 60), 100)
    assert table.take_changes() == [message("a", 60, ONE, TWO), message("b", 60, TWO)]
    assert list(table.messages(100)) == [message("a", 60, ONE), message("b", 60, TWO)]


def test_addresses_of_a_name_add_up():
    table = NamedAddresses()
    table.learn(Answer("a", (ONE,), 60), 100)
    table.learn(Answer("a", (TWO,), 60), 110)
    assert list(table.messages(120)) == [message("a", 40, ONE), message("a", 50, TWO)]


def test_where_it_is_full_the_longest_unanswered_goes_and_is_counted_if_it_held():
    table = NamedAddresses(most=2)
    table.learn(Answer("a", (ONE,), 60), 100)
    table.learn(Answer("b", (TWO,), 5), 100)
    table.learn(Answer("a", (ONE,), 60), 101)
    table.learn(Answer("c", (THREE,), 60), 110)
    assert (len(table), table.forgotten) == (2, 0)  # b did not hold any more
    assert [name.name for name in table.messages(110)] == ["a", "c"]
    table.learn(Answer("d", (TWO,), 60), 110)
    assert (len(table), table.forgotten) == (2, 1)
    assert [name.name for name in table.messages(110)] == ["c", "d"]


def test_what_does_not_hold_is_forgotten():
    table = NamedAddresses()
    table.learn(Answer("a", (ONE,), 60), 100)
    table.learn(Answer("b", (TWO,), 10), 100)
    table.forget(110)
    assert (len(table), table.forgotten) == (1, 0)
