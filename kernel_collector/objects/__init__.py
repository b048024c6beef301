"""The BPF objects, compiled from bpf/ by the build."""

from __future__ import annotations

from pathlib import Path

OBJECTS = Path(__file__).parent
