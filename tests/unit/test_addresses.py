import pytest

from intake.addresses import address_text, packed, packed_all

V4, V6 = bytes(10) + b"\xff\xff\x0a\x00\x00\x01", bytes.fromhex("fd00") + bytes(13) + b"\x01"


def test_addresses_are_16_bytes_each_once():
    assert packed_all(["10.0.0.1", "fd00::1", "10.0.0.1", "None", "", None, "host", "10.0.0.1/32"]) == [V4, V6]


def test_what_is_no_address_is_an_error():
    with pytest.raises(ValueError, match="'host' does not appear to be an IPv4 or IPv6 address"):
        packed("host")


@pytest.mark.parametrize("address", ["10.0.0.1", "255.255.255.255", "fd00::1", "::1", "::"])
def test_addresses_as_text(address):
    assert address_text(packed(address)) == address
