"""A reducer and a kernel collector on this machine, and the live table of what they see."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from console.table import LiveTable
from daemon.errors import StartupError
from daemon.events import set_within
from reducer.live import LiveView
from reducer.service import Reducer

if TYPE_CHECKING:
    from reducer.options import Settings

LOOK_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def run_and_show(settings: Settings) -> None:
    """Run both and show the table until a signal, or until nobody reads it any more.

    Raises:
        StartupError: one of the two cannot run here; the message says what to do.

    """
    stopping = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    reducer = Reducer(settings)
    try:
        await reducer.start()
        view = reducer.pipeline.live = LiveView(reducer.pipeline.view_owners)
        with tempfile.TemporaryFile("w+") as output:
            collector = await _start_collector(settings.port, output)
            reducing = asyncio.create_task(reducer.run(stopping))
            try:
                await _show(LiveTable(sys.stdout, _headlines(settings)), view, stopping, collector)
            finally:
                await _end(collector)
                stopping.set()
                await reducing
            if collector.returncode:
                raise StartupError(_last_words(output))
    finally:
        await reducer.close()


async def _start_collector(port: int, output: IO[str]) -> asyncio.subprocess.Process:
    program = Path(sys.executable).with_name("kernel-collector")
    environment = os.environ | {"EBPF_NET_INTAKE_HOST": "127.0.0.1", "EBPF_NET_INTAKE_PORT": str(port)}
    # A session of its own: Ctrl-C is for this process, which ends the collector in good order.
    try:
        return await asyncio.create_subprocess_exec(
            *(program, "--no-log-file", "--log-console", "--warning"),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except OSError as error:
        raise StartupError(f"the kernel collector cannot be started: {program}: {error.strerror}") from None


async def _show(
    table: LiveTable, view: LiveView, stopping: asyncio.Event, collector: asyncio.subprocess.Process
) -> None:
    """Show the table each second until *stopping*, or the end of the collector, or of whoever reads."""
    with contextlib.suppress(BrokenPipeError), table:
        while not stopping.is_set() and collector.returncode is None:
            await set_within(stopping, LOOK_S)
            table.show(await asyncio.to_thread(view.look, table.rows))


async def _end(collector: asyncio.subprocess.Process) -> None:
    """End the collector; whether it ended by itself before is told by its return code."""
    if collector.returncode is None:
        collector.terminate()
        await collector.wait()


def _headlines(settings: Settings) -> list[str]:
    scrape = f"http://{settings.prometheus}/metrics" if settings.prometheus else "none"
    if settings.otlp_grpc_endpoint:
        otlp = f"gRPC to {settings.otlp_grpc_endpoint}"
    elif settings.otlp_http:
        otlp = "HTTP, as OTEL_EXPORTER_OTLP_ENDPOINT says"
    else:
        otlp = "off; --enable-otlp-grpc-metrics --otlp-grpc-metrics-host HOST sends there"
    return [f"Prometheus: {scrape}", f"OTLP: {otlp}", "Ctrl-C ends it."]


def _last_words(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output if line.strip()]
    return f"the kernel collector ended: {lines[-1].removeprefix('error: ')}" if lines else "the kernel collector ended"
