"""Laws of reading answers: whatever comes, it is an answer or an error, and soon."""

from __future__ import annotations

import contextlib
import time

import dns.name
from hypothesis import given
from hypothesis import strategies as st

from intake.limits import LONGEST_LABEL
from kernel_collector.dns.answers import LONGEST_TTL, MalformedAnswerError, read_answer
from tests.dns_messages import answer
from tests.rows import packed

LONGEST_MESSAGE = 4096
LONGEST_READ_S = 0.5  # of CPU; one takes 5 ms at most, on a machine that does nothing else

labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, min_size=1, max_size=3).map(lambda found: dns.name.Name([*found, b""]).to_text())
addresses = st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=5, unique=True)
ttls = st.integers(0, 2**31 - 1)


def read(message, *, whole):
    """Read it; return the answer, or None."""
    started = time.thread_time()
    found = None
    with contextlib.suppress(MalformedAnswerError):
        found = read_answer(message, whole=whole)
    assert time.thread_time() - started < LONGEST_READ_S
    if found:
        assert 0 < len(found.name) <= LONGEST_LABEL
        assert found.name.isascii()
        assert found.name.isprintable()
        assert {len(address) for address in found.addresses} == {16}
        assert 0 <= found.ttl <= LONGEST_TTL
    return found


@given(st.binary(max_size=LONGEST_MESSAGE), st.booleans())
def test_anything_is_read_or_refused(message, whole):
    read(message, whole=whole)


@given(
    names,
    addresses,
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from([0, 1, 0x3F, 0x40, 0xC0, 0xFF]))),
    st.integers(0, 300),
)
def test_an_answer_that_was_changed_is_read_or_refused(name, found, changes, length):
    message = bytearray(answer(name, (name, 60, "A", *found)))
    for at, value in changes:
        message[at % len(message)] = value
    read(bytes(message[:length]), whole=False)
    read(bytes(message), whole=True)


@given(names, names, addresses, ttls, ttls)
def test_what_was_said_is_what_is_read(name, alias, found, ttl, alias_ttl):
    same = dns.name.from_text(name) == dns.name.from_text(alias)
    records = [(alias, ttl, "A", *found)]
    if not same:
        records.insert(0, (name, alias_ttl, "CNAME", alias))
    told = read(answer(name, *records), whole=True)
    assert set(told.addresses) == set(map(packed, found))
    assert told.ttl == min(ttl, LONGEST_TTL, ttl if same else alias_ttl)
    assert told.name == name[:-1].lower()[-LONGEST_LABEL:]


@given(st.integers(1, 330), st.integers(0, 60))
def test_names_that_point_to_names_take_no_longer(records, labels_each):
    """Each record's name goes through all before it, as far as dnspython follows."""
    message = bytearray(answer("a.", ("a.", 60, "A", "192.0.2.1"))[:19])
    message[6:8] = records.to_bytes(2, "big")
    previous = 12
    for _ in range(records):
        here = len(message)
        message += b"\1x" * labels_each + (0xC000 | previous).to_bytes(2, "big") + b"\0\1\0\1\0\0\0\1\0\0"
        previous = min(here, 0x3FFF)
    read(bytes(message[:LONGEST_MESSAGE]), whole=False)
