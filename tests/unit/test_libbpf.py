"""What libbpf says, told to people."""

from __future__ import annotations

import pytest

from kernel_collector.bpf import libbpf
from kernel_collector.bpf.libbpf import LibbpfError

VERIFIER = (
    "libbpf: prog 'bad': BPF program load failed: Permission denied",
    "libbpf: prog 'bad': -- BEGIN PROG LOAD LOG --",
    "1: (69) r0 = *(u16 *)(r1 +16)",
    "R1 invalid mem access",
    "processed 2 insns (limit 1000000) max_states_per_insn 0",
    "-- END PROG LOAD LOG --",
)


def test_the_message_has_the_verifiers_complaint():
    error = LibbpfError(13, "cannot load x", VERIFIER)
    assert str(error) == "cannot load x: Permission denied (R1 invalid mem access)"
    assert error.said == VERIFIER


def test_a_missing_capability_is_not_blamed_on_the_limit_that_libbpf_warns_of():
    said = ("libbpf: Failed to bump RLIMIT_MEMLOCK (err = -1), you might need to do it", "libbpf: Error in x(): no")
    assert str(LibbpfError(1, "cannot load x", said)) == "cannot load x: Operation not permitted (Error in x(): no)"


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(libbpf, "SONAME", "libnothing.so.1")
    libbpf.library.cache_clear()
    try:
        with pytest.raises(LibbpfError, match=r"libnothing\.so\.1 is missing .*: apt-get install libbpf1"):
            libbpf.library()
    finally:
        libbpf.library.cache_clear()
