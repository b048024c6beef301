"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# On a build machine the same examples each time, and no verdict on the machine's speed.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
