from __future__ import annotations

import struct

from kernel_collector.machine.interfaces import _attributes, _messages


def test_messages_and_attributes_of_any_form_end():
    header = struct.pack("=IHHII", 0, 20, 0, 0, 0)
    assert list(_messages(header)) == [(20, b"")]  # a length of 0 is no way to go on forever
    assert list(_messages(b"short")) == []
    assert list(_attributes(struct.pack("=HH", 0, 1) + struct.pack("=HHI", 8, 2, 7))) == [
        (1, b""),
        (2, struct.pack("=I", 7)),
    ]
    assert list(_attributes(b"xyz")) == []
