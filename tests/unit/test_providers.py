from __future__ import annotations

import logging

import pytest

from cloud_collector.options import Settings
from cloud_collector.providers import opened
from daemon.errors import StartupError


def test_libraries_do_not_tell_of_each_request_nor_of_what_it_is_signed_with(caplog):
    caplog.set_level(logging.DEBUG)
    opened("aws", Settings())
    logging.getLogger("botocore.endpoint").debug("X-Amz-Security-Token: secret")
    logging.getLogger("botocore.configprovider").info("Found endpoint for ec2")
    logging.getLogger("botocore.endpoint").warning("a warning")
    assert caplog.messages == ["a warning"]


def test_a_provider_that_there_is_not():
    with pytest.raises(StartupError, match=r"pip install 'ebpf-net\[cloud,none\]'"):
        opened("none", Settings())
