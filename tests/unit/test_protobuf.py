from __future__ import annotations

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from daemon.protobuf import attributes, field, head, varint


def test_numbers_of_any_length():
    for number in (0, 1, 127, 128, 300, 1 << 35, (1 << 64) - 1):
        resource = Resource.FromString(b"\x10" + varint(number))  # dropped_attributes_count, cut to 32 bits
        assert resource.dropped_attributes_count == number & 0xFFFFFFFF


def test_a_field_is_its_head_and_its_content():
    assert field(1, b"ab", b"c" * 300) == head(1, 302) + b"ab" + b"c" * 300
    assert KeyValue.FromString(field(1, b"ab", b"c" * 300)).key == "ab" + "c" * 300


def test_labels_as_attributes():
    resource = Resource.FromString(attributes(1, (("a", "ä"), ("b", "\ud800"))))
    assert [(each.key, each.value.string_value) for each in resource.attributes] == [("a", "ä"), ("b", "?")]
