import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer.columns.narrow import Narrow

SIZE = 8
VALUES = st.one_of(st.integers(-130, 130), st.integers(-(2**62), 2**62))


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, SIZE - 1), VALUES, min_size=1)))
def test_it_keeps_what_it_was_told(steps):
    narrow, wide = Narrow(np.int8), np.zeros(SIZE, np.int64)
    narrow.grow(SIZE)
    everything = np.arange(SIZE)
    for step in steps:
        at = np.array(list(step))
        narrow[at] = wide[at] = np.array(list(step.values()))
        assert narrow[everything].tolist() == wide.tolist()
        assert narrow.is_set().tolist() == (wide != 0).tolist()


def test_it_grows_with_zeros_and_is_cleared():
    narrow = Narrow(np.int8)
    narrow.grow(2)
    narrow[np.array([0, 1])] = np.array([10**12, 5])
    narrow.grow(2)
    assert narrow[np.arange(4)].tolist() == [10**12, 5, 0, 0]
    narrow[np.array([0])] = 0
    assert narrow[np.arange(4)].tolist() == [0, 5, 0, 0]
    assert narrow.nbytes == 4
