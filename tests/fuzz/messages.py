"""Messages that no collector of ours would send, and some that one would."""

from __future__ import annotations

import random
import struct
import zlib

from ebpf_net.v1 import intake_pb2
from google.protobuf.descriptor import FieldDescriptor

from daemon.version import PROTOCOL_VERSION
from intake.columns import TABLES
from intake.limits import GREATEST_NUMBER, GREATEST_VALUE, MOST_MESSAGE_BYTES, MOST_ROWS

SECOND_NS = 1_000_000_000
# What is counted one by one is less than the bytes of it, so that somebody can be the most active of all.
GREATEST_COUNT = 1 << 40
_POOLED = 997
_LARGE = zlib.compress(bytes(MOST_MESSAGE_BYTES + 1), 9)
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_INT64: 63}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32: 32, FieldDescriptor.CPPTYPE_UINT64: 64}
_ADDRESSES = [bytes(10) + b"\xff\xff" + bytes((10, 0, 0, last)) for last in range(8)]
_ADDRESSES += [bytes(10) + b"\xff\xff\x7f\0\0\1", bytes(15) + b"\1", bytes(16), b"\xff" * 16]
# A placeholder of valid UTF-8, which is overwritten where a text shall be none.
_TEXT = "\N{REPLACEMENT CHARACTER}" * 3


class Messages:
    """Makes messages; the same *seed* makes the same ones.

    Attributes:
        kinds: how messages are made, as often as they stand here.

    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.kinds = [self.noise, *[self.batch] * 8, self.any_message, self.mutated, self.compressed, self.not_text]
        self._number = 0
        self._pools: dict[tuple[str, int, bool], bytes] = {}

    def hello(self, session: bytes) -> bytes:
        """Return a first message, most of which are taken."""
        hello = intake_pb2.Hello(
            protocol_version=PROTOCOL_VERSION, kind=self._random.randint(0, 3), session_id=session, host=self._host()
        )
        match self._random.randrange(9):
            case 0:
                hello.session_id = self._random.randbytes(self._random.randint(0, 40))
            case 1:
                hello.kind = 99  # type: ignore[assignment]
            case 2:
                hello.protocol_version = self._random.randint(0, 3)
        return intake_pb2.FromCollector(hello=hello).SerializeToString()

    def next(self, now_ns: int) -> bytes:
        """Return a message of any kind."""
        return self._random.choice(self.kinds)(now_ns)

    def noise(self, _now_ns: int) -> bytes:
        """Return bytes."""
        return self._random.randbytes(int(self._random.expovariate(1 / 30)))

    def any_message(self, _now_ns: int) -> bytes:
        """Return a message that any field may be in, with any value."""
        message = intake_pb2.FromCollector()
        self._fill(message, 3)
        return message.SerializeToString()

    def batch(self, now_ns: int) -> bytes:
        """Return a batch whose tables are so, or nearly, that they can be taken."""
        self._number += self._random.choice((1, 1, 1, 1, 0, 7))
        batch = intake_pb2.Batch(number=self._number, time_unix_ns=max(0, self._time(now_ns)))
        for name in self._random.sample(list(TABLES), self._random.randint(0, 3)):
            self._table(name, getattr(batch, name))
        if self._random.random() < 0.3:
            self._fill(batch.entities, 2)
        if self._random.random() < 0.1:
            self._fill(batch.statistics, 2)
        if self._random.random() < 0.02:
            batch.number = self._random.choice((0, GREATEST_NUMBER + 1, (1 << 64) - 1))
        return intake_pb2.FromCollector(batch=batch).SerializeToString()

    def mutated(self, now_ns: int) -> bytes:
        """Return a batch with some bytes changed, cut out or put in."""
        data = bytearray(self.batch(now_ns))
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randrange(len(data) + 1)
            match self._random.randrange(3):
                case 0 if at < len(data):
                    data[at] = self._random.randrange(256)
                case 1:
                    del data[at : at + self._random.randint(1, 9)]
                case _:
                    data[at:at] = self._random.randbytes(self._random.randint(1, 9))
        return bytes(data)

    def compressed(self, now_ns: int) -> bytes:
        """Return a compressed message: whole, cut off, with something after it, within another, or much larger."""
        data = self.batch(now_ns)
        stream = zlib.compress(data, 1)
        match self._random.randrange(90):
            case 0:
                stream = _LARGE
            case 1 | 2:
                stream = stream[: self._random.randrange(len(stream))]
            case 3 | 4:
                stream += self.noise(now_ns)
            case 5 | 6:
                stream = zlib.compress(intake_pb2.FromCollector(compressed=stream).SerializeToString(), 1)
            case 7 | 8:
                stream = self.noise(now_ns)
        return intake_pb2.FromCollector(compressed=stream).SerializeToString()

    def not_text(self, now_ns: int) -> bytes:
        """Return a message with a text that is no UTF-8."""
        batch = intake_pb2.Batch(number=self._number + 1, time_unix_ns=now_ns)
        match self._random.randrange(3):
            case 0:
                batch.entities.processes.add(id=1, name=_TEXT)
            case 1:
                batch.entities.pods.add(uid=_TEXT, labels={_TEXT: _TEXT})
            case _:
                batch.entities.host.name = _TEXT
        data = intake_pb2.FromCollector(batch=batch).SerializeToString()
        return data.replace(_TEXT.encode(), b"\xff\xc0\x80\xed\xa0\x80\xf5ab")

    def _table(self, name: str, message: object) -> None:
        rows = self._random.choice((0, 1, 1, 2, 3, 5, 20))
        message.rows = rows  # type: ignore[attr-defined]
        for column in TABLES[name]:
            chance = self._random.random()
            if chance < 0.3:
                continue
            size = column.dtype.itemsize
            pool = self._pool(column.name, size, odd=chance < 0.303)
            begin = self._random.randrange(_POOLED - rows) * size
            values = pool[begin : begin + rows * size]
            if chance > 0.998:
                values = values[:-1] + self._random.randbytes(self._random.randint(0, 40))
            setattr(message, column.name, values)
        if self._random.random() < 0.02:
            message.rows = self._random.choice((rows + 1, MOST_ROWS, MOST_ROWS + 1, (1 << 32) - 1))  # type: ignore[attr-defined]

    def _pool(self, column: str, size: int, *, odd: bool) -> bytes:
        """Return elements of a column, made once; the odd ones are of any value."""
        if (column, size, odd) not in self._pools:
            elements = (self._random.randbytes(size) if odd else self._element(column, size) for _ in range(_POOLED))
            self._pools[column, size, odd] = b"".join(elements)
        return self._pools[column, size, odd]

    def _element(self, column: str, size: int) -> bytes:
        if size == 16:
            return self._random.choice(_ADDRESSES)
        if column.endswith("port"):
            return struct.pack("<H", self._random.choice((53, 80, 443, 40000, 40001)))
        if column == "transport":
            return self._random.choice((b"\x06", b"\x11"))
        few = {"role": 2, "baseline": 1, "failure": 7, "kind": 3, "socket": 40, "process": 9, "cgroup": 9, "bin": 599}
        most = few.get(column, 1000)
        if self._random.random() < 0.05 and column not in ("role", "baseline", "failure", "kind"):
            most = min((1 << 8 * size) - 1, GREATEST_VALUE if column.startswith("bytes") else GREATEST_COUNT)
        return self._random.randint(0, most).to_bytes(size, "little")

    def _host(self) -> intake_pb2.Host:
        host = intake_pb2.Host()
        self._fill(host, 2)
        return host

    def _time(self, now_ns: int) -> int:
        far = (0, 1, (1 << 64) - 1, 1 << 63, now_ns + 10**18, now_ns - 25 * 3600 * SECOND_NS)
        if self._random.random() < 0.02:
            return self._random.choice(far)
        return now_ns - self._random.randint(0, 40) * SECOND_NS

    def _fill(self, message: object, depth: int) -> None:
        """Give some fields of a message any values."""
        for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
            if self._random.random() < 0.3:
                self._fill_field(message, field, depth)

    def _fill_field(self, message: object, field: FieldDescriptor, depth: int) -> None:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            getattr(message, field.name).update({self._text(): self._text() for _ in range(self._random.randint(0, 3))})
        elif field.message_type is not None and field.is_repeated:
            for _ in range(self._random.randint(0, 3) if depth else 0):
                self._fill(getattr(message, field.name).add(), depth - 1)
        elif field.message_type is not None:
            if depth:
                self._fill(getattr(message, field.name), depth - 1)
        elif field.is_repeated:
            count = self._random.choice((0, 1, 2, 3, 30))
            getattr(message, field.name).extend(self._value(field) for _ in range(count))
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> object:
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._text()
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._random.choice((*_ADDRESSES, b"", self._random.randbytes(self._random.randint(0, 40))))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.type == FieldDescriptor.TYPE_ENUM:
            return self._random.choice((0, 1, 2, 3, 99))
        if field.cpp_type in _UNSIGNED:
            greatest = (1 << _UNSIGNED[field.cpp_type]) - 1
            return self._random.choice((0, 1, 2, 3, 9, greatest, self._random.randint(0, greatest)))
        greatest = (1 << _INTEGERS[field.cpp_type]) - 1
        return self._random.choice((0, 1, -1, greatest, -greatest - 1))

    def _text(self) -> str:
        if self._random.random() < 0.001:
            return "x" * self._random.choice((257, 5_000, 1_000_000))
        return self._random.choice(
            ("", "a", "web", 'q"\\\n', "\0", "\x1b[2J", "kubelet", "runsv", "10.0.0.1", "ü" * 40)
        )
