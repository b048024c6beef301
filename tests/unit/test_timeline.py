import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reducer.knowledge.timeline import FOREVER, NOT_KNOWN, Timeline, keys_of, place_of, scope_of
from tests.rows import packed

PLACE, OTHER = 7 << 60, 3 << 60


def found(view, *questions, scope=1, place=PLACE):
    keys = keys_of(np.full(len(questions), place, np.uint64), scope)
    return view.find(keys, np.array(questions, np.int64))[0].tolist()


def timeline_of(*claims, slack=0):
    """Return a timeline with claims as (entity, since, until, told)."""
    timeline = Timeline(slack)
    for entity, since, until, told in claims:
        timeline.hold(timeline.add(PLACE, 1, entity, told), since, until)
    return timeline


def test_a_claim_holds_from_its_beginning_until_its_end():
    view = timeline_of((5, 10, 20, 10)).view()
    assert found(view, 9, 10, 19, 20) == [0, 5, 5, 0]
    assert found(view, 15, scope=2) == [0]
    assert found(view, 15, place=OTHER) == [0]


def test_who_had_a_place_at_each_time_is_found():
    view = timeline_of((5, 10, 20, 10), (6, 20, 30, 20), (7, 40, FOREVER, 40), (8, 1, 5, 1)).view()
    assert found(view, 0, 1, 7, 15, 25, 35, 99) == [0, 8, 0, 5, 6, 0, 7]


def test_where_claims_overlap_the_later_one_holds():
    assert found(timeline_of((5, 10, FOREVER, 10), (6, 20, FOREVER, 20)).view(), 15, 20, 99) == [5, 6, 6]


def test_a_claim_holds_a_little_longer_unless_another_one_begins():
    assert found(timeline_of((5, 10, 20, 10), slack=5).view(), 24, 25) == [5, 0]
    assert found(timeline_of((5, 10, 20, 10), (6, 22, FOREVER, 22), slack=5).view(), 21, 22) == [5, 6]


def test_a_beginning_that_is_not_known_is_the_end_of_the_one_before():
    assert found(timeline_of((5, NOT_KNOWN, FOREVER, 50)).view(), 0, 50) == [5, 5]
    assert found(timeline_of((5, 10, 20, 10), (6, NOT_KNOWN, FOREVER, 50)).view(), 15, 20, 49) == [5, 6, 6]
    assert found(timeline_of((5, 10, FOREVER, 10), (6, NOT_KNOWN, FOREVER, 50)).view(), 49, 50) == [5, 6]


def test_what_has_not_ended_holds_again_when_a_later_claim_has():
    first, second = (5, NOT_KNOWN, FOREVER, 10), (6, NOT_KNOWN, 30, 20)
    assert found(timeline_of(first, second, slack=5).view(), 15, 25, 30, 99) == [5, 6, 5, 5]
    assert found(timeline_of(first, second, (7, NOT_KNOWN, 50, 40)).view(), 25, 35, 50) == [6, 7, 5]
    assert found(timeline_of(first, second, (7, 25, 28, 25)).view(), 22, 26, 28, 30) == [6, 7, 6, 5]
    assert found(timeline_of((5, NOT_KNOWN, 30, 10), second).view(), 15, 25, 30) == [5, 6, 0]
    other = timeline_of(first, second)
    other.hold(other.add(PLACE, 2, 8, 20), NOT_KNOWN, 30)
    assert found(other.view(), 99, scope=2) == [0]


def test_what_held_again_still_did_once_it_has_ended_itself():
    second = (6, 5, 10, 5)
    assert found(timeline_of((5, NOT_KNOWN, FOREVER, 1), second).view(), 7, 20, 29, 30) == [6, 5, 5, 5]
    assert found(timeline_of((5, NOT_KNOWN, 30, 1), second).view(), 7, 20, 29, 30) == [6, 5, 5, 0]
    assert found(timeline_of((5, NOT_KNOWN, 30, 1), second, slack=5).view(), 29, 34, 35) == [5, 5, 0]


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 30), st.booleans()), max_size=8, unique_by=lambda claim: claim[0]
    )
)
def test_the_last_claim_of_unknown_beginning_that_lasts_holds_where_a_later_one_has_ended(claims):
    claims = [(told, told + lasts if lasts < 25 else FOREVER, known) for told, lasts, known in sorted(claims)]
    told = [(row + 1, at if known else NOT_KNOWN, until, at) for row, (at, until, known) in enumerate(claims)]
    ends = [-1, *(until for _, until, _ in claims)]
    begins = [at if known else min(end, at) for end, (at, _, known) in zip(ends, claims, strict=False)]
    for time, entity in enumerate(found(timeline_of(*told).view(), *range(60))):
        last = max((row for row, begin in enumerate(begins) if begin <= time), default=-1)
        holds = [
            row + 1
            for row, (_, until, known) in enumerate(claims[: last + 1])
            if time < until and (row == last or not known)
        ]
        assert entity == (holds[-1] if holds else 0)


def test_claims_that_are_removed_are_not_found_and_their_room_is_used_again():
    timeline = Timeline()
    for entity in range(1, 5000):
        timeline.remove(timeline.add(PLACE, 1, entity, 1))
    assert len(timeline) == 0
    assert len(timeline.view().key) == 0
    assert found(timeline.view(), 1) == [0]
    numbers = [timeline.add(PLACE, 1, 9, told) for told in range(3000)]
    assert len({*numbers}) == len(timeline) == 3000


def test_filters_tell_where_a_claim_is_and_where_one_changed():
    view = timeline_of((5, 10, 20, 10), slack=5).view()
    places = np.array([PLACE, OTHER], np.uint64)
    assert view.places.may_have(places).tolist() == [True, False]
    assert view.changed_since(24).may_have(places).tolist() == [True, False]
    assert view.changed_since(25).may_have(places).tolist() == [False, False]
    assert Timeline().view().places.empty


def test_the_scope_of_a_place_is_told_where_it_has_only_one():
    timeline = timeline_of((5, 10, 20, 10), (6, 20, 30, 20))
    timeline.add(OTHER, 3, 7, 1)
    timeline.add(OTHER, 4, 8, 1)
    scope, known, shared = timeline.view().only_scope(np.array([PLACE, OTHER, 5], np.uint64))
    assert (known.tolist(), shared.tolist(), int(scope[0])) == ([True, True, False], [False, True, False], 1)
    assert Timeline().view().only_scope(np.array([5], np.uint64))[1].tolist() == [False]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)), max_size=12), st.randoms())
def test_the_order_of_claims_means_nothing(claims, random):
    told = [(entity, min(times), max(times), min(times)) for entity, *times in claims]
    told = list({claim[1]: claim for claim in told}.values())  # two from the same time on are not told apart
    shuffled = list(told)
    random.shuffle(shuffled)
    times = range(32)
    assert found(timeline_of(*told).view(), *times) == found(timeline_of(*shuffled).view(), *times)
    for time, entity in zip(times, found(timeline_of(*told).view(), *times), strict=True):
        before = [claim for claim in told if claim[1] <= time]
        last = max(before, key=lambda claim: claim[1], default=None)
        assert entity == (last[0] if last and time < last[2] else 0)


def test_places_and_scopes_differ():
    addresses = np.frombuffer(b"".join(map(packed, ("10.0.0.1", "10.0.0.2", "fd00::1", "::"))), np.uint64)
    ports = np.array([0, 80, 443], np.uint64)
    places = {int(place) for port in ports for place in place_of(addresses.reshape(-1, 2), np.full(4, port))}
    assert len(places) == 12
    assert scope_of("") == 0 != scope_of("a") != scope_of("b")
    assert place_of(addresses.reshape(-1, 2)).tolist() == place_of(addresses.reshape(-1, 2), np.zeros(4)).tolist()
