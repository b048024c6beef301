"""docs/kernel-collector.md has what the command and the checks have."""

from __future__ import annotations

from intake.labels import LABEL_VARIABLES, LONGEST_VALUE
from kernel_collector.concerns import KINDS
from kernel_collector.documentation import options
from kernel_collector.preflight import HOOKS
from tests.packages import ROOT

WRITTEN = (ROOT / "docs/kernel-collector.md").read_text()


def test_options_are_up_to_date() -> None:
    table = options()
    assert table in WRITTEN, "take the table that python -m kernel_collector.documentation prints"
    assert "| `--intake-port`, `EBPF_NET_INTAKE_PORT` | 8000 | Port of the reducer. |" in table
    assert "| `--record-limit` | 1024 |" in table
    assert "| `--disable-nat`, `EBPF_NET_DISABLE_NAT` | off |" in table


def test_labels_of_the_operator_are_there() -> None:
    assert [name for name in LABEL_VARIABLES.values() if f"`{name}`" not in WRITTEN] == []
    assert f"at most {LONGEST_VALUE} characters" in WRITTEN


def test_each_line_of_preflight_about_a_hook_is_there() -> None:
    names = [name for _, _, name in HOOKS] + [kind.name for kind in KINDS]
    assert [name for name in names if f"\n| {name} | " not in WRITTEN] == []
