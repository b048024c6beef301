import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer.columns.key_columns import KEY_WORDS, KeyColumns

WORDS = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 2**64 - 1))
KEYS = st.lists(st.tuples(*[WORDS] * KEY_WORDS), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(KEYS, max_size=5))
def test_keys_are_as_they_were_told(steps):
    columns, told = KeyColumns(), {}
    for step in steps:
        columns.grow(len(step))
        slots = len(told) + np.arange(len(step))[::-1]
        columns[slots] = np.array(step, np.uint64).T
        told |= dict(zip(slots.tolist(), step, strict=True))
        found = columns[np.array(list(told))]
        assert [tuple(key) for key in found.T.tolist()] == list(told.values())


def test_what_is_the_same_in_all_takes_no_memory():
    columns, flows = KeyColumns(), 1000
    columns.grow(flows)
    keys = np.zeros((KEY_WORDS, flows), np.uint64)
    keys[1] = keys[3] = np.arange(flows, dtype=np.uint64) << np.uint64(40) | np.uint64(0xFFFF_0000)
    keys[4] = np.uint64(6 << 32) | np.arange(flows, dtype=np.uint64) << np.uint64(16)
    columns[np.arange(flows)] = keys
    assert columns.nbytes < 13 * flows
    keys[4] += np.uint64(11 << 32)
    columns[np.arange(flows // 2)] = keys[:, : flows // 2]
    assert columns.nbytes < 14 * flows
