"""What answers say, made by dnspython and by the hostile."""

from __future__ import annotations

import struct

import pytest

from intake.limits import LONGEST_LABEL
from kernel_collector.dns.answers import LONGEST_TTL, Answer, MalformedAnswerError, read_answer
from tests.dns_messages import answer, query, response
from tests.rows import packed

OPT_BYTES = 11  # at the end of what dnspython makes, and not looked at
A1, A2, AAAA1 = packed("192.0.2.1"), packed("192.0.2.2"), packed("2001:db8::1")


def test_addresses_of_both_families_each_once():
    message = answer(
        "example.com.", ("example.com.", 60, "A", "192.0.2.1", "192.0.2.2"), ("example.com.", 30, "AAAA", "2001:db8::1")
    )
    twice = message[:6] + struct.pack("!H", 5) + message[8:-OPT_BYTES] + message[29:45] * 2
    for sent, whole in ((message, True), (twice, True), (message, False)):
        found = read_answer(sent, whole=whole)
        assert (found.name, found.ttl) == ("example.com", 30)
        assert sorted(found.addresses) == sorted((A1, A2, AAAA1))  # dnspython sends them in any order


def test_aliases_are_followed_to_the_name_that_was_asked_for_and_the_least_time_counts():
    message = answer(
        "www.example.com.",
        ("www.example.com.", 300, "CNAME", "Edge.cdn.example.net."),
        ("edge.CDN.example.net.", 20, "CNAME", "node.example.org."),
        ("node.example.org.", 60, "A", "192.0.2.1"),
        ("stranger.example.org.", 1, "A", "192.0.2.9"),
    )
    assert read_answer(message) == Answer("www.example.com", (A1,), 20)


@pytest.mark.parametrize(
    "records",
    [
        (),
        (("b.", 60, "A", "192.0.2.1"),),
        (("a.", 60, "CNAME", "b."),),
        (("a.", 60, "CNAME", "b."), ("b.", 60, "CNAME", "a.")),
        (("a.", 60, "TXT", '"192.0.2.1"'),),
        (
            *((f"{n}.", 60, "CNAME", f"{n + 1}.") for n in range(20)),
            ("a.", 60, "CNAME", "0."),
            ("20.", 60, "A", "192.0.2.1"),
        ),
    ],
    ids=["none", "of another name", "an alias alone", "aliases in a circle", "another type", "too many aliases"],
)
def test_without_addresses_of_the_name_there_is_nothing_to_tell(records):
    assert read_answer(answer("a.", *records)) is None


def test_names_are_lower_case_printable_and_as_they_were_asked_for():
    def named(name):
        return read_answer(answer(name, (name, 60, "A", "192.0.2.1"))).name

    assert named("eXaMPle.COM.") == "example.com"
    assert named("xn--mnchen-3ya.example.") == "xn--mnchen-3ya.example"
    assert named(r"a\007b\010c\255.example.") == r"a\007b\010c\255.example"
    assert named(r"with\.dot.example.") == r"with\.dot.example"


def test_a_name_that_is_long_when_written_keeps_its_end():
    name = ".".join([r"\001" * 60] * 4) + "."
    found = read_answer(answer(name, (name, 60, "A", "192.0.2.1"))).name
    assert len(found) == LONGEST_LABEL
    assert name[:-1].endswith(found)


@pytest.mark.parametrize(
    ("sent", "taken"), [(0, 0), (LONGEST_TTL, LONGEST_TTL), (LONGEST_TTL + 1, LONGEST_TTL), (1 << 31, 0)]
)
def test_times_to_live_are_bounded(sent, taken):
    message = answer("a.", ("a.", 77, "A", "192.0.2.1"))
    assert read_answer(message.replace(struct.pack("!I", 77), struct.pack("!I", sent))).ttl == taken


def test_compression_that_leads_in_circles_is_malformed():
    message = bytearray(answer("a.", ("a.", 60, "A", "192.0.2.1")))
    at = message.index(b"\xc0\x0c")
    message[at : at + 2] = struct.pack("!H", 0xC000 | at)
    with pytest.raises(MalformedAnswerError, match="BadPointer"):
        read_answer(bytes(message))


def test_what_is_cut_off_is_malformed_unless_that_is_known():
    message = answer("a.", ("a.", 60, "A", "192.0.2.1", "192.0.2.2"))
    for length in range(len(message) - OPT_BYTES):
        with pytest.raises(MalformedAnswerError):
            read_answer(message[:length])
    (found,) = read_answer(message[: -OPT_BYTES - 1], whole=False).addresses
    assert found in (A1, A2)


@pytest.mark.parametrize(("at", "count"), [(4, 0), (4, 2), (4, 65_535), (6, 65_535)])
def test_absurd_counts_are_malformed(at, count):
    message = bytearray(answer("a.", ("a.", 60, "A", "192.0.2.1")))
    message[at : at + 2] = struct.pack("!H", count)
    with pytest.raises(MalformedAnswerError):
        read_answer(bytes(message))


def test_an_address_of_another_length_is_none():
    message = answer("a.", ("a.", 60, "A", "192.0.2.1"))
    longer = message.replace(b"\0\4" + bytes([192, 0, 2, 1]), b"\0\5" + bytes([192, 0, 2, 1, 9]))
    assert longer != message
    assert read_answer(longer) is None


def test_what_follows_the_answers_is_not_looked_at():
    message = bytearray(response(query("a."), ("a.", 60, "A", "192.0.2.1")))
    message[8:12] = b"\xff" * 4
    assert read_answer(bytes(message) + b"\xff" * 100).addresses == (A1,)
