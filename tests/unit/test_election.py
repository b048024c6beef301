from __future__ import annotations

from datetime import UTC, datetime

from k8s_collector.election import LEASE_S, RENEW_DEADLINE_S, Candidate

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec_of(holder, transitions=0, renewed="2026-01-01T00:00:00.000000Z", seconds=15):
    return {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "renewTime": renewed,
        "acquireTime": "2025-01-01T00:00:00.000000Z",
        "leaseTransitions": transitions,
    }


def test_a_lease_that_nobody_has_is_taken():
    wanted = Candidate("a").wanted({}, 0, NOW)
    assert (wanted["holderIdentity"], wanted["leaseDurationSeconds"], wanted["leaseTransitions"]) == ("a", 15, 1)
    assert wanted["acquireTime"] == wanted["renewTime"] == "2026-01-01T00:00:00.000000Z"


def test_one_that_was_released_is_taken_at_once():
    assert Candidate("a").wanted(spec_of("", 3, seconds=1), 0, NOW)["leaseTransitions"] == 4


def test_ones_own_is_renewed():
    wanted = Candidate("a").wanted(spec_of("a", 3), 0, NOW)
    assert (wanted["acquireTime"], wanted["leaseTransitions"]) == ("2025-01-01T00:00:00.000000Z", 3)


def test_another_ones_is_taken_when_it_was_not_renewed_for_its_time_by_ones_own_clock():
    candidate = Candidate("a")
    assert candidate.wanted(spec_of("b"), 100, NOW) is None
    assert candidate.wanted(spec_of("b"), 100 + LEASE_S - 0.1, NOW) is None
    assert candidate.wanted(spec_of("b", renewed="2026-01-01T00:00:10.000000Z"), 100 + LEASE_S - 0.1, NOW) is None
    assert candidate.wanted(spec_of("b", renewed="2026-01-01T00:00:10.000000Z"), 100 + 2 * LEASE_S - 0.2, NOW) is None
    wanted = candidate.wanted(spec_of("b", renewed="2026-01-01T00:00:10.000000Z"), 100 + 2 * LEASE_S - 0.1, NOW)
    assert wanted["holderIdentity"] == "a"


def test_one_that_cannot_renew_it_gives_up_before_another_may_take_it():
    candidate = Candidate("a")
    assert not candidate.leads(0)
    candidate.renewed_s = 0
    assert candidate.leads(RENEW_DEADLINE_S - 0.1)
    assert not candidate.leads(RENEW_DEADLINE_S)
    assert RENEW_DEADLINE_S < LEASE_S


def test_one_that_lost_it_does_not_lead():
    candidate = Candidate("a", renewed_s=0)
    assert candidate.wanted(spec_of("b"), 1, NOW) is None
    assert not candidate.leads(1)
