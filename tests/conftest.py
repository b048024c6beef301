"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# For messages with the values that differ, as in test modules.
for module in ("daemons", "http_connection", "k8s_collector", "traffic", "transfer"):
    pytest.register_assert_rewrite(f"tests.lab.{module}")

# No verdict on the machine's speed; on a build machine the same examples each time.
settings.register_profile("own", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("own"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "own")


class _LabInOneProcess(LoadScopeScheduling):
    """Deals out files, but those that use the kernel together: programs on packets see those of the whole machine."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "lab" if file.startswith(("tests/lab/", "tests/fuzz/")) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return _LabInOneProcess(config, log)
