import numpy as np
import pytest

from reducer.columns.flags import Flags


def test_columns_share_a_byte_and_not_their_values():
    flags = Flags()
    side, known, done = flags.column(2, np.int8, least=-1), flags.column(2, np.uint8), flags.column(1, np.bool_)
    flags.grow(4)
    assert side[:].tolist() == [-1] * 4
    assert flags.packed.nbytes == 4
    side[np.array([0, 3])] = np.array([1, 0])
    known[np.array([1, 3])] = 2
    done[np.array([2, 3])] = True
    assert (side[:].tolist(), side[:].dtype) == ([1, -1, -1, 0], np.int8)
    assert (known[:].tolist(), known[:].dtype) == ([0, 2, 0, 2], np.uint8)
    assert (done[:].tolist(), done[:].dtype) == ([False, False, True, True], np.bool_)
    flags.grow(1)
    known[:] = 1
    assert side[:].tolist() == [1, -1, -1, 0, -1]
    assert done[:].tolist() == [False, False, True, True, False]


def test_a_byte_has_eight_bits():
    flags = Flags()
    flags.column(7, np.uint8)
    with pytest.raises(ValueError, match="9 bits do not fit"):
        flags.column(2, np.uint8)
