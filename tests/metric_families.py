"""Reads MetricFamily messages of io.prometheus.client, of which only what is needed is defined here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "string": _FIELD.TYPE_STRING,
    "double": _FIELD.TYPE_DOUBLE,
    "uint64": _FIELD.TYPE_UINT64,
    "uint32": _FIELD.TYPE_UINT32,
    "sint32": _FIELD.TYPE_SINT32,
    "sint64": _FIELD.TYPE_SINT64,
    "int32": _FIELD.TYPE_INT32,
}
# Name and number of each field, its type, and `*` where it is repeated.
_MESSAGES = {
    "LabelPair": "name 1 string, value 2 string",
    "Gauge": "value 1 double",
    "Counter": "value 1 double",
    "Bucket": "cumulative_count 1 uint64, upper_bound 2 double",
    "BucketSpan": "offset 1 sint32, length 2 uint32",
    "Histogram": "sample_count 1 uint64, sample_sum 2 double, bucket 3 Bucket*, schema 5 sint32,"
    "zero_threshold 6 double, positive_span 12 BucketSpan*, positive_delta 13 sint64*",
    "Metric": "label 1 LabelPair*, gauge 2 Gauge, counter 3 Counter, histogram 7 Histogram",
    "MetricFamily": "name 1 string, help 2 string, type 3 int32, metric 4 Metric*, unit 5 string",
}


def _family() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="test", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            field, number, kind = text.split()
            made = message.field.add(name=field, number=int(number), label=_FIELD.LABEL_OPTIONAL)
            if kind.endswith("*"):
                made.label = _FIELD.LABEL_REPEATED
            kind = kind.rstrip("*")
            if kind in _KINDS:
                made.type = _KINDS[kind]
            else:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".test.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.MetricFamily"))


MetricFamily = _family()


def families(body: bytes) -> Iterator[Any]:
    """Yield the messages of a body, each after its length as a varint."""
    at = 0
    while at < len(body):
        length = shift = 0
        while True:
            byte = body[at]
            at, length, shift = at + 1, length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        yield MetricFamily.FromString(body[at : at + length])
        at += length
