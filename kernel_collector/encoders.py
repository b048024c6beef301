"""How a collector tells what it found: to a reducer, or by OTLP logs to whatever takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ebpf_net.v1 import intake_pb2

    from intake.columns import Tables
    from kernel_collector.options import Settings


class Client(Protocol):
    """A way to one receiver: what is submitted is sent while `run` runs, in the same event loop."""

    @property
    def poll_interval_ns(self) -> int:
        """How often the receiver wants rows."""

    @property
    def acknowledged(self) -> int:
        """The highest number such that no batch up to it refers to anything any more."""

    def submit(
        self,
        time_unix_ns: int,
        entities: intake_pb2.Entities,
        tables: Tables,
        statistics: intake_pb2.CollectorStatistics | None = None,
    ) -> int:
        """Have rows sent; return the number of the last batch. See `CollectorSession`."""

    async def run(self) -> None:
        """Connect, send, and begin again after each loss, until `finish` or until cancelled."""

    async def finish(self, timeout_s: float) -> bool:
        """Send what is left; return whether the receiver has taken all within *timeout_s*."""


def client(
    settings: Settings, hello: intake_pb2.Hello, snapshot: Callable[[], Iterable[intake_pb2.Entities]]
) -> Client:
    """Return a client of the encoder that the settings name; what the other one needs is not imported."""
    if settings.intake_encoder == "otlp_log":
        from kernel_collector.otlp_log.client import OtlpLogClient  # noqa: PLC0415

        return OtlpLogClient(settings.intake_host, settings.intake_port, hello.host, settings.credentials)
    from intake.client import IntakeClient  # noqa: PLC0415

    return IntakeClient(settings.intake_host, settings.intake_port, hello, snapshot, settings.credentials)
