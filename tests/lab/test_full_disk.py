"""A disk that is really full: what the queue and the files of flows do about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from reducer.columns.series import EndTable
from reducer.outputs.disk_store import DiskStore
from reducer.outputs.flow_files import FlowWriter, JsonLines, ParquetFiles
from reducer.outputs.flow_records import FlowRecords
from reducer.outputs.request import Request
from reducer.outputs.store import WindowExport
from tests.intake_ends import until
from tests.lab.disk import fill
from tests.windows import sealed_window

if TYPE_CHECKING:
    from pathlib import Path

SESSION = b"s" * 16


def test_windows_wait_in_memory_and_are_acknowledged_once_there_is_room(disk: Path) -> None:
    def window(number: int) -> WindowExport:
        return WindowExport(number, [Request(1, bytes([number]) * 100_000)], {SESSION: number}, b"%d" % number)

    store = DiskStore(disk)
    assert store.put(window(1)) == {SESSION: 1}
    ballast = fill(disk)
    assert store.put(window(2)) == {}
    assert store.put(window(3)) == {}
    assert store.statistics().windows_unwritten == 2
    ballast.unlink()
    assert store.retry() == {SESSION: 3}
    store.close()
    store = DiskStore(disk)
    assert (store.acknowledged, store.balances) == ({SESSION: 3}, b"3")
    found = []
    while request := store.next():
        found.append(request.body[0])
        store.done(request.id)
    assert found == [1, 2, 3]
    store.close()


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_flows_are_written_whole_or_later(disk: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [({"workload.name": "a"}, {"workload.name": f"b{row}"}, {"bytes": 1}) for row in range(500)]
    flows = FlowRecords().table(sealed_window(EndTable(), {"flows": rows}))
    files = JsonLines(disk / "flows") if kind == "json" else ParquetFiles(str(disk / "flows"))

    async def main() -> None:
        ballast = fill(disk)
        writer = FlowWriter(files)
        writer.put(flows)
        running = asyncio.create_task(writer.run())
        await until(lambda: "cannot write flows to" in caplog.text)
        assert writer.statistics.windows_waiting == 1
        left = [path for path in (disk / "flows").rglob("*") if path.is_file()] if kind == "parquet" else []
        assert left == []
        assert kind == "parquet" or not (disk / "flows").stat().st_size
        ballast.unlink()
        writer.finish()
        await running
        assert writer.statistics.flows_written == 500

    asyncio.run(main())
