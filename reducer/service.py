"""The reducer as a running program: the pipeline in the middle, and the shells around it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.errors import StartupError
from daemon.events import set_within
from daemon.http import HttpServer, health_page
from daemon.signals import stop_event
from intake.clock import SECOND_NS
from reducer.http import flow_metrics_page, internal_metrics_page
from reducer.internal_export import InternalMetrics
from reducer.internal_metrics import Snapshot
from reducer.knowledge.autonomous_systems import AutonomousSystems
from reducer.matching.balances import BalancesError
from reducer.options import GRACE_NS
from reducer.outputs.conventions import CONVENTIONS
from reducer.outputs.disk_store import DiskStore
from reducer.outputs.exporter import Exporter
from reducer.outputs.flow_files import FlowFiles, FlowWriter, JsonLines, ParquetFiles
from reducer.outputs.flow_logs import FlowLogEncoder
from reducer.outputs.flow_records import FlowRecords
from reducer.outputs.metric_selection import chosen_metrics, own_metrics_chosen
from reducer.outputs.otlp import OtlpEncoder
from reducer.outputs.otlp_environment import warn_of_other_protocols
from reducer.outputs.prometheus import PrometheusSeries
from reducer.outputs.request import Signal
from reducer.outputs.resource import encoded_resource
from reducer.outputs.store import MemoryStore, Store, WindowExport
from reducer.outputs.transport import GrpcTransport, HttpTransport, Transport
from reducer.pipeline import Pipeline
from reducer.server import IntakeServer
from reducer.sessions import ReducerSessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reducer.columns.series import SealedWindow
    from reducer.options import Settings
    from reducer.outputs.metric import Metric

_LOGGER = logging.getLogger(__name__)
# How often the loop looks for a window that is due; it is alive as long as it did so lately.
_TICK_S = 0.5
_MOST_SILENCE_S = 60.0
# How long the end may take until receivers and disks have what is left, and then for collectors to hear what is safe.
# In all it is less than the 10 s after which `docker stop` kills, whether or not a receiver answers.
_EXPORT_AT_END_S = 5.0
_GRACE_AT_END_S = 1.0
# However long it took to close the windows, what is left is tried once more.
_LEAST_EXPORT_AT_END_S = 1.0
# How full the queue of exports may be while the receiver takes them: what is open must still find room.
_MOST_FILL = 0.25


async def serve(settings: Settings) -> None:
    """Run a reducer until SIGTERM, SIGINT or SIGHUP; another SIGTERM or SIGINT ends it at once.

    Raises:
        StartupError: something that was asked for is not to be had; the message says what to do.

    """
    stopping = stop_event()
    reducer = Reducer(settings)
    try:
        await reducer.start()
        await reducer.run(stopping)
    finally:
        await reducer.close()


class Reducer:
    """The pipeline with its intake and its outputs: `start`, `run`, `close`.

    Attributes:
        pipeline: where a live view can be attached.

    Raises:
        StartupError: the data directory, an address or the receiver's settings cannot be used.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pipeline = pipeline(settings)
        self._sessions = ReducerSessions(self.pipeline, settings.window_ns, settings.poll_interval_ns)
        self._intake = IntakeServer(self._sessions, settings.credentials, self._overloaded)
        metrics, conventions = metrics_of(settings), CONVENTIONS[settings.metric_names]
        resource = encoded_resource(os.environ)
        # As many as all levels may have in a window, and as many again for those that are idle.
        most_series = 2 * settings.series_limit * len(settings.levels)
        self._prometheus = PrometheusSeries(metrics, most_series, conventions) if settings.prometheus else None
        self._own_metrics = InternalMetrics(self._statistics, resource)
        self._own_wanted = own_metrics_chosen(settings.disable_metrics, settings.enable_metrics)
        self._servers = self._http_servers()
        signals = _signals(settings)
        self._transport = _transport(settings, signals)
        # What a request of the reducer's own metrics waits for holds up no other.
        self._own_transport = _transport(settings, [Signal.METRICS])
        self._encoder = otlp_encoder(settings, metrics)
        self._flow_logs = FlowLogEncoder(settings.otlp_batch_size, resource=resource) if settings.flow_logs else None
        self._flow_records = FlowRecords()
        self._flow_writers = [FlowWriter(files) for files in _flow_files(settings)]
        self._store: Store = DiskStore(settings.data_directory) if settings.data_directory else MemoryStore()
        self._exporter = Exporter(self._store, self._transport, self._intake.safe) if self._transport else None
        self._ticked_s = time.monotonic()
        self._receiver_is_overrun = False
        self._sessions.restore(self._store.acknowledged)
        self._restore_balances()

    async def start(self) -> None:
        """Listen for collectors, scrapers and probes.

        Raises:
            StartupError: a port is in use.

        """
        if self._settings.ignored:
            _LOGGER.warning(
                "these options do nothing here: %s; docs/reducer.md says why", ", ".join(self._settings.ignored)
            )
        for server in self._servers:
            await server.start()
        await self._intake.start(self._settings.port)
        _LOGGER.info(
            "listening for collectors on port %d, metrics for Prometheus at %s, OTLP to %s",
            self._settings.port,
            self._settings.prometheus or "none",
            self._transport.endpoint if self._transport else "none",
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Seal windows as they fall due and export them, until *stopping*; then what is left."""
        exporting = asyncio.create_task(self._exporter.run()) if self._exporter else None
        writing = [asyncio.create_task(writer.run()) for writer in self._flow_writers]
        telling = asyncio.create_task(self._own_metrics.export(self._own_transport)) if self._own_transport else None
        while not stopping.is_set():
            self._ticked_s = time.monotonic()
            while window := await asyncio.to_thread(self.pipeline.seal, time.time_ns()):
                await self._publish(window)
            if exporting is None:
                self._intake.safe(await asyncio.to_thread(self._store.retry))
            for task in (exporting, telling, *writing):
                if task and task.done():
                    task.result()
            self._receiver_is_overrun = self._receiver_lags()
            now_ns = time.time_ns()
            due_s = (self.pipeline.next_due(now_ns) - now_ns) / SECOND_NS
            await set_within(stopping, min(_TICK_S, max(due_s, 0.0)))
        if telling:
            telling.cancel()
        await self._finish(exporting, writing)

    async def close(self) -> None:
        """Close all ports and files."""
        await self._intake.stop(grace_s=0)
        for transport in filter(None, (self._transport, self._own_transport)):
            transport.close()
        self._store.close()
        for server in self._servers:
            await server.stop()

    async def _finish(self, exporting: asyncio.Task[None] | None, writing: list[asyncio.Task[None]]) -> None:
        """Close the windows that are open, and have all exported and acknowledged, as far as there is time."""
        began_s = time.monotonic()
        windows = self.pipeline.finish(time.time_ns())
        while window := await asyncio.to_thread(next, windows, None):
            await self._publish(window)
        for writer in self._flow_writers:
            writer.finish()
        until_s = max(began_s + _EXPORT_AT_END_S, time.monotonic() + _LEAST_EXPORT_AT_END_S)
        if self._exporter and exporting:
            self._exporter.finish(until_s - time.monotonic())
            await exporting
        if writing:
            await asyncio.wait(writing, timeout=max(0.0, until_s - time.monotonic()))
        for writer in self._flow_writers:
            writer.close()
        left = self._store.statistics().requests
        if left and self._settings.data_directory:
            _LOGGER.warning(
                "%d OTLP requests could not be sent: they wait in the data directory for the next start", left
            )
        await self._intake.stop(_GRACE_AT_END_S)

    async def _publish(self, window: SealedWindow) -> None:
        of_metrics = with_levels(window, self._settings)
        requests = await asyncio.to_thread(self._encoder.encode, of_metrics) if self._exporter else []
        if self._flow_logs:
            requests += await asyncio.to_thread(self._flow_logs.encode, window)
        if self._prometheus:
            await asyncio.to_thread(self._prometheus.observe, of_metrics)
        if self._flow_writers:
            flows = await asyncio.to_thread(self._flow_records.table, window)
            for writer in self._flow_writers:
                writer.put(flows)
        export = WindowExport(window.end_ns, requests, window.acknowledge, window.balances)
        self._intake.safe(await asyncio.to_thread(self._store.put, export))
        if self._exporter:
            self._exporter.wake()

    def _overloaded(self) -> bool:
        return self._receiver_is_overrun or self.pipeline.overloaded

    def _receiver_lags(self) -> bool:
        """Tell whether a receiver that works takes less than comes; one that does not work holds up nobody."""
        if self._exporter is None or not self._exporter.connected:
            return False
        queue = self._store.statistics()
        return queue.bytes > _MOST_FILL * queue.most_bytes

    def _restore_balances(self) -> None:
        if not self._store.balances:
            return
        try:
            self.pipeline.restore(self._store.balances)
        except BalancesError as error:
            raise StartupError(
                f"the data directory {self._settings.data_directory} is not usable: {error}; move it away to start anew"
            ) from error

    def _http_servers(self) -> list[HttpServer]:
        own = {
            "/metrics": internal_metrics_page(self._own_metrics),
            "/healthz": health_page(self._what_hangs),
            "/readyz": health_page(self._what_is_not_ready),
        }
        servers = [HttpServer("--internal-prom", self._settings.internal_prometheus, own)]
        if self._prometheus and self._settings.prometheus:
            pages = {"/metrics": flow_metrics_page(self._prometheus)}
            servers.append(HttpServer("--prom", self._settings.prometheus, pages))
        return servers

    def _what_hangs(self) -> str | None:
        silence_s = time.monotonic() - self._ticked_s
        return f"no window was looked at for {silence_s:.0f} s" if silence_s > _MOST_SILENCE_S else None

    def _what_is_not_ready(self) -> str | None:
        unwritten = self._store.statistics().windows_unwritten
        return f"the data directory could not take {unwritten} windows" if unwritten else self._what_hangs()

    def _statistics(self) -> Snapshot:
        groups: dict[str, object] = {
            "intake": self._sessions.counters,
            "pipeline": self.pipeline.statistics(),
            "queue": self._store.statistics(),
        }
        if self._exporter:
            groups["otlp"] = self._exporter
            by_signal = self._exporter.statistics.items()
            groups["otlp_grpc"] = {(("client_type", str(signal)),): of_signal for signal, of_signal in by_signal}
        if self._flow_writers:
            groups["flow_files"] = {(("place", writer.name),): writer.statistics for writer in self._flow_writers}
        if self._prometheus:
            groups["prometheus"] = self._prometheus.statistics()
        return Snapshot(groups, list(self._sessions.connected()), time.time_ns(), self._own_wanted)


def pipeline(settings: Settings) -> Pipeline:
    """Return the pipeline that the settings ask for."""
    return Pipeline(
        settings.window_ns,
        GRACE_NS,
        settings.poll_interval_ns,
        settings.levels_needed,
        keep_loopback=settings.keep_loopback,
        node_ip=not settings.disable_node_ip_field,
        system_ip=settings.enable_autonomous_system_ip,
        systems=AutonomousSystems(settings.geoip_path) if settings.geoip_path else None,
        use_interfaces=settings.enable_aws_enrichment,
        most_series=settings.series_limit,
    )


def metrics_of(settings: Settings) -> tuple[Metric, ...]:
    """Return the metrics that the settings ask for; what they name in vain is logged."""
    return chosen_metrics(
        settings.disable_metrics, settings.enable_metrics, percentiles=settings.enable_percentile_latencies
    )


def otlp_encoder(settings: Settings, metrics: tuple[Metric, ...]) -> OtlpEncoder:
    """Return an encoder of *metrics* as the settings name them."""
    return OtlpEncoder(
        metrics,
        most_points=settings.otlp_batch_size,
        conventions=CONVENTIONS[settings.metric_names],
        resource=encoded_resource(os.environ),
        cumulative=settings.otlp_cumulative,
    )


def with_levels(window: SealedWindow, settings: Settings) -> SealedWindow:
    """Return a window with those levels alone of which metrics are wanted."""
    return replace(window, levels=[level for level in window.levels if level.name in settings.levels])


def _signals(settings: Settings) -> list[Signal]:
    """Return what is sent where there is a receiver.

    Raises:
        StartupError: there is none where one is needed, or there are two.

    """
    if settings.flow_logs and not (settings.otlp_grpc_endpoint or settings.otlp_http):
        raise StartupError("--enable-flow-logs needs --enable-otlp-grpc-metrics or --enable-otlp-http-metrics")
    if settings.otlp_grpc_endpoint and settings.otlp_http:
        raise StartupError("give one of --enable-otlp-grpc-metrics and --enable-otlp-http-metrics, not both")
    signals = [Signal.METRICS, *([Signal.LOGS] if settings.flow_logs else [])]
    if settings.otlp_grpc_endpoint or settings.otlp_http:
        warn_of_other_protocols(signals, "grpc" if settings.otlp_grpc_endpoint else "http/protobuf")
    return signals


def _transport(settings: Settings, signals: list[Signal]) -> Transport | None:
    if settings.otlp_grpc_endpoint:
        return GrpcTransport(settings.otlp_grpc_endpoint, signals)
    return HttpTransport(signals=signals) if settings.otlp_http else None


def _flow_files(settings: Settings) -> Iterator[FlowFiles]:
    if settings.flow_logs_file:
        yield JsonLines(settings.flow_logs_file, settings.flow_logs_file_limit_bytes)
    if settings.parquet_directory:
        yield ParquetFiles(settings.parquet_directory, settings.parquet_limit_bytes, settings.parquet_hours)
