"""DNS messages as dnspython makes them."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset


def response(query, *records, rcode="NOERROR", truncated=False, question=True):
    """Return the wire form of a response to a query's wire form: records are (owner, ttl, type, data…)."""
    message = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    message.set_rcode(dns.rcode.from_text(rcode))
    if truncated:
        message.flags |= dns.flags.TC
    for owner, ttl, kind, *data in records:
        message.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, *data))
    wire = message.to_wire(max_size=65_535)
    return wire if question else wire[:4] + bytes(8)


def query(name, kind="A", number=None, *, edns=True):
    """Return the wire form of a query; *number* is its id."""
    message = dns.message.make_query(name, kind, use_edns=0 if edns else None)
    if number is not None:
        message.id = number
    return message.to_wire()


def answer(name, *records, kind="A"):
    """Return the wire form of a response to a query for *name*."""
    return response(query(name, kind), *records)
