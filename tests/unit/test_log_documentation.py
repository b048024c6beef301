from __future__ import annotations

from kernel_collector.otlp_log.documentation import documentation
from tests.packages import ROOT


def test_documentation_is_up_to_date() -> None:
    text = documentation((ROOT / "proto/ebpf_net/v1/intake.proto").read_text())
    written = (ROOT / "docs/otlp-log.md").read_text()
    assert written == text, "run: python -m kernel_collector.otlp_log.documentation > docs/otlp-log.md"
    assert "| `ebpf_net.tcp.srtt_count` | int | How many were read. |" in text
    assert "| `process.creation.time` | string | RFC 3339, with nanoseconds. |" in text
    assert "| `ebpf_net.tcp.baseline` | bool |" in text
    assert "| `ebpf_net.latency.to_s` | double |" in text
