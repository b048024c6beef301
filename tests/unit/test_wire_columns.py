from __future__ import annotations

import numpy as np
import pytest

from daemon.protobuf import varint
from reducer.outputs.wire_columns import cut, padded_varints, varints

NUMBERS = [0, 1, 127, 128, 300, (1 << 62) - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_varints_of_one_size_are_read_as_any(number):
    (encoded,) = padded_varints(np.array([number], np.int64), 10)
    value = sum((int(byte) & 0x7F) << 7 * place for place, byte in enumerate(encoded))
    assert (value, encoded[-1] & 0x80, len(encoded)) == (number, 0, 10)


def test_varints_are_the_shortest():
    encoded, ends = varints(np.array(NUMBERS, np.uint64))
    assert cut(encoded, ends) == list(map(varint, NUMBERS))
