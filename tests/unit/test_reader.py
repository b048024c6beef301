import asyncio
import logging
import threading
from collections import Counter

import pytest
from ebpf_net.v1 import intake_pb2

from cloud_collector.inventory import Inventory
from cloud_collector.provider import Cause, Found, ProviderError, Scope, Scopes
from cloud_collector.reader import MOST_READINGS_WITHOUT_NAMES, Reader


class Twin:
    """A provider that tells what a test says."""

    name = "aws"

    def __init__(self, **regions):
        self.regions = regions
        self.refusal = None
        self.accounts = {}  # others, with their regions or why they cannot be had

    def scopes(self):
        if self.refusal:
            raise self.refusal
        scopes = Scopes([Scope("aws", "", region) for region in self.regions], {})
        for account, regions in self.accounts.items():
            if isinstance(regions, ProviderError):
                scopes.unknown[account] = regions
            else:
                scopes.found.extend(Scope("aws", account, region) for region in regions)
        return scopes

    def read(self, scope):
        found = (self.accounts[scope.account] if scope.account else self.regions)[scope.region]
        if isinstance(found, Exception):
            raise found
        names, lacking = found if isinstance(found, tuple) else (found, ())
        return Found([intake_pb2.CloudInterface(id=name) for name in names], lacking)


def setup(**regions):
    twin, inventory = Twin(**regions), Inventory()
    return twin, inventory, Reader([twin], inventory)


def read(reader, inventory):
    asyncio.run(reader.read())
    list(inventory.take_changes())
    return {each.id for entities in inventory.snapshot() for each in entities.cloud_interfaces}


DENIED = ProviderError(Cause.PERMISSION, "permission ec2:DescribeNetworkInterfaces is missing")
THROTTLED = ProviderError(Cause.THROTTLED, "throttled")


def test_a_failing_region_keeps_its_last_state_and_is_reported_once(caplog):
    caplog.set_level(logging.INFO)
    twin, inventory, reader = setup(east=["a"], west=["b"])
    assert read(reader, inventory) == {"a", "b"}
    twin.regions |= {"east": THROTTLED, "west": ["c"]}
    for _ in range(3):
        assert read(reader, inventory) == {"a", "c"}
    assert reader.failures == {Scope("aws", "", "east"): THROTTLED}
    assert reader.failed == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "aws east keeps what it had: throttled" in caplog.text
    twin.regions["east"] = []
    assert read(reader, inventory) == {"c"}
    assert not reader.failures
    assert "aws east is read again" in caplog.text


def test_another_cause_of_the_same_region_is_reported(caplog):
    twin, inventory, reader = setup(east=THROTTLED)
    read(reader, inventory)
    twin.regions["east"] = DENIED
    read(reader, inventory)
    assert "DescribeNetworkInterfaces is missing" in caplog.text


def test_where_the_regions_cannot_be_had_all_keep_what_they_have():
    twin, inventory, reader = setup(east=["a"])
    read(reader, inventory)
    twin.refusal = DENIED
    assert read(reader, inventory) == {"a"}
    assert reader.failures == {Scope("aws", "", ""): DENIED}


def test_an_account_whose_regions_cannot_be_had_keeps_what_it_has_and_others_are_read(caplog):
    caplog.set_level(logging.INFO)
    twin, inventory, reader = setup(east=["a"])
    twin.accounts = {"other": {"east": ["b"], "west": THROTTLED}}
    assert read(reader, inventory) == {"a", "b"}
    twin.regions, twin.accounts = {"east": ["c"]}, {"other": DENIED}
    for _ in range(2):
        assert read(reader, inventory) == {"b", "c"}
    assert reader.failures == {Scope("aws", "other", "west"): THROTTLED, Scope("aws", "other", ""): DENIED}
    assert caplog.text.count("aws other keeps what it had") == 1
    twin.accounts = {"other": {"east": ["d"]}}
    assert read(reader, inventory) == {"c", "d"}
    assert not reader.failures
    assert "aws other is read again" in caplog.text
    assert "aws other west is gone" in caplog.text


def test_of_one_account_that_cannot_be_had_the_failure_is_reported_once(caplog):
    twin, inventory, reader = setup()
    twin.accounts = {"": DENIED}
    for _ in range(3):
        read(reader, inventory)
    assert reader.failures == {Scope("aws", "", ""): DENIED}
    assert len(caplog.records) == 1


def test_a_region_that_is_gone_fails_no_more_and_is_not_said_to_be_read(caplog):
    caplog.set_level(logging.INFO)
    twin, inventory, reader = setup(east=["a"], west=THROTTLED)
    read(reader, inventory)
    del twin.regions["west"]
    assert read(reader, inventory) == {"a"}
    assert not reader.failures
    assert "aws west is gone" in caplog.text
    assert "is read again" not in caplog.text


def test_a_region_that_is_gone_lacks_nothing():
    lack = ProviderError(Cause.PERMISSION, "permission ec2:DescribeInstances is missing")
    twin, inventory, reader = setup(east=["a"], west=(["b"], (lack,)))
    read(reader, inventory)
    del twin.regions["west"]
    assert read(reader, inventory) == {"a"}
    assert not any(reader.lacking.values())


def test_what_lacks_names_is_told_all_the_same(caplog):
    lack = ProviderError(Cause.PERMISSION, "permission ec2:DescribeInstances is missing")
    _, inventory, reader = setup(east=(["a"], (lack,)))
    assert read(reader, inventory) == {"a"}
    read(reader, inventory)
    assert caplog.text.count("ec2:DescribeInstances is missing") == 1
    assert reader.lacking[Scope("aws", "", "east")] == (lack,)


@pytest.mark.parametrize("cause", [Cause.THROTTLED, Cause.NETWORK, Cause.FAULT])
def test_names_and_interfaces_that_are_lacking_for_a_moment_are_those_of_before(cause, caplog):
    passing = ProviderError(cause, "names are not to be had now")
    twin, inventory, reader = setup(east=["a", "b"], west=(["c"], (passing,)))
    assert read(reader, inventory) == {"a", "b", "c"}
    assert not reader.failures  # what was never read with names is told without
    twin.regions |= {"east": (["a"], (passing,)), "west": (["d"], (passing,))}
    for _ in range(MOST_READINGS_WITHOUT_NAMES):
        assert read(reader, inventory) == {"a", "b", "d"}
        assert list(reader.failures) == [Scope("aws", "", "east")]
    assert "aws east keeps what it had: names are not to be had now" in caplog.messages
    assert read(reader, inventory) == {"a", "d"}
    twin.regions["east"] = ["a", "e"]
    assert read(reader, inventory) == {"a", "d", "e"}
    twin.regions["east"] = ["a"], (passing,)
    assert read(reader, inventory) == {"a", "d", "e"}
    twin.regions["east"] = ["a"], (DENIED,)  # that passes not by itself
    assert read(reader, inventory) == {"a", "d"}
    assert not reader.failures


def test_what_is_still_being_read_is_not_asked_for_again_and_keeps_nothing_else():
    asked, begun, answers = Counter(), threading.Event(), threading.Event()
    twin, inventory, reader = setup(east=["a"], west=["b"])
    told = twin.read

    def slowly(scope):
        asked[scope.region] += 1
        if scope.region == "east":
            begun.set()
            assert answers.wait(60)
        return told(scope)

    twin.read = slowly

    async def scenario():
        hanging = asyncio.create_task(reader.read())
        await asyncio.to_thread(begun.wait, 60)
        for _ in range(3):
            await reader.read()
        assert asked["east"] == 1
        assert asked["west"] >= 3
        assert len(inventory) == 1
        answers.set()
        await hanging
        await reader.read()
        assert asked["east"] == 2
        assert len(inventory) == 2

    try:
        asyncio.run(scenario())
    finally:
        answers.set()


def test_what_a_library_raises_beside_its_own_errors_is_a_failure_of_one_region():
    """Such as of a gateway's page of HTML, where an answer was to be."""
    twin, inventory, reader = setup(east=["a"], west=["b"])
    assert read(reader, inventory) == {"a", "b"}
    twin.regions |= {"east": ValueError("no\nXML"), "west": ["c"]}
    assert read(reader, inventory) == {"a", "c"}
    assert {f"{scope}: {error}" for scope, error in reader.failures.items()} == {"aws east: ValueError: no XML"}
    twin.refusal = OSError("a file that cannot be read")
    assert read(reader, inventory) == {"a", "c"}
    assert "OSError: a file that cannot be read" in map(str, reader.failures.values())
