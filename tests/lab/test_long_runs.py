"""Short runs of what tests/long does for as long as somebody likes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.long.outages import outages
from tests.long.receivers import scrape, series_at_collector, series_at_victoria

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.daemons import Lab

SERIES = 20_000


@pytest.mark.parametrize("native", [False, True], ids=["text", "native histograms"])
def test_prometheus(lab: Lab, native: bool) -> None:  # noqa: FBT001
    scrape(lab, 8, collectors=10, native=native)


@pytest.mark.parametrize("send", [series_at_collector, series_at_victoria])
def test_many_series(lab: Lab, send) -> None:
    send(lab, SERIES)


def test_receivers_that_refuse_and_are_slow(new_lab: Callable[[], Lab]) -> None:
    """In memory and on disk at the same time, each in a lab of its own."""
    with ThreadPoolExecutor() as threads:
        ways = [
            threads.submit(outages, new_lab(), 8, http=http, durable=durable)
            for http, durable in ((False, False), (True, True))
        ]
        for way in ways:
            way.result()
