from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from daemon.errors import StartupError
from reducer.columns.series import EndTable
from reducer.outputs.flow_files import MOST_WAITING_WINDOWS, FlowWriter, JsonLines, ParquetFiles
from reducer.outputs.flow_records import SCHEMA, FlowRecords
from tests.windows import WINDOW_NS, sealed_window

WEB = {"workload.name": "web", "ip": "10.0.0.1", "pod": 'a "b", c'}
DATABASE = {"workload.name": "db", "ip": "10.0.0.2"}
HOUR = 3_600_000_000_000 // WINDOW_NS  # windows


def flows(number=0, count=3):
    rows = [(WEB, DATABASE | {"id": f"{row}"}, {"bytes": 100 + row, "packets": 1}) for row in range(count)]
    return FlowRecords().table(sealed_window(EndTable(), {"flows": rows}, number))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def parquet(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.parquet"))


def test_a_line_a_flow_without_what_is_nothing(tmp_path):
    JsonLines(tmp_path / "flows.jsonl").write(flows(count=2))
    first, second = lines(tmp_path / "flows.jsonl")
    assert first == {
        "window_start": "2023-11-14T22:13:30.000Z",
        "window_end": "2023-11-14T22:14:00.000Z",
        "source_workload_name": "web",
        "source_ip": "10.0.0.1",
        "source_pod": 'a "b", c',
        "dest_workload_name": "db",
        "dest_id": "0",
        "dest_ip": "10.0.0.2",
        "bytes": 100,
        "packets": 1,
        "tcp_bytes": 100,
        "tcp_packets": 1,
    }
    assert second["bytes"] == 101


def test_hostile_labels_stay_what_they_are(tmp_path):
    pod = 'x","bytes":0,"dest_pod":null}'
    window = sealed_window(EndTable(), {"flows": [(WEB | {"pod": pod}, DATABASE, {"bytes": 1})]})
    JsonLines(tmp_path / "flows").write(FlowRecords().table(window))
    (line,) = lines(tmp_path / "flows")
    assert (line["source_pod"], line["bytes"]) == (pod, 1)


def test_lines_are_rotated_and_bounded(tmp_path):
    path = tmp_path / "flows.jsonl"
    one = JsonLines(tmp_path / "size")
    one.write(flows())
    size = (tmp_path / "size").stat().st_size
    files = JsonLines(path, most_bytes=5 * (2 * size + 1))
    for number in range(40):
        files.write(flows(number))
    kept = [path, *(tmp_path / f"flows.jsonl.{number}" for number in range(1, 5))]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "size"])
    assert sum(file.stat().st_size for file in kept) <= 5 * (2 * size + 1)
    starts = [line["window_start"] for file in reversed(kept) for line in lines(file)]
    assert starts == sorted(starts)
    assert len(set(starts)) == 10  # the newest windows, whole
    assert len(starts) == 30


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """The limit on the size of files stands for the disk: a write is cut, and the next one fails."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from tests.unit.test_flow_files import flows, JsonLines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = JsonLines(Path({str(tmp_path / "flows")!r}))
files.write(flows())
size = Path({str(tmp_path / "flows")!r}).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, size + 50))
try:
    files.write(flows(1))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "File too large\n"
    assert len(lines(tmp_path / "flows")) == 3


def test_a_fifo_is_written_while_somebody_reads(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    files = JsonLines(path, 100)
    with pytest.raises(OSError, match="nobody reads from it"):
        files.write(flows())
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(2):
        files.write(flows())
        lines = os.read(reader, 1 << 16).splitlines()
        assert [json.loads(line)["bytes"] for line in lines] == flows()["bytes"].to_list()
        with pytest.raises(BlockingIOError):  # it is not at its end
            os.read(reader, 1)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        files.write(flows())
    with pytest.raises(OSError, match="nobody reads from it"):
        files.write(flows())
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert [each.name for each in tmp_path.iterdir()] == ["fifo"]


def test_a_socket_is_an_error_at_the_start(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(StartupError, match=f"cannot write {path}: it is a socket; give --flow-logs-file a file"):
            JsonLines(path)


def test_the_fifo_of_another_user_is_not_to_be_created(tmp_path, monkeypatch):
    """As the kernel has it with fs.protected_fifos, which takes root to set."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opened = os.open

    def protected(path, flags, *mode):
        if flags & os.O_CREAT and Path(path).is_fifo():
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *mode)

    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(os, "open", protected)
    JsonLines(path).write(flows(count=1))
    assert json.loads(os.read(reader, 1 << 16))["bytes"] == 100
    os.close(reader)


def test_what_a_link_leads_to_is_rotated_there(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "flows.jsonl"
    link.symlink_to(tmp_path / "disk" / "flows.jsonl")
    files = JsonLines(link, 100)
    for _ in range(2):
        files.write(flows())
    assert link.is_symlink()
    assert sorted(each.name for each in (tmp_path / "disk").iterdir()) == ["flows.jsonl", "flows.jsonl.1"]


def test_why_a_device_cannot_be_written():
    with pytest.raises(OSError, match="No space left on device"):
        JsonLines(Path("/dev/full")).write(flows())


def test_what_was_being_written_when_it_was_killed_is_removed(tmp_path):
    ParquetFiles(str(tmp_path)).write(flows())
    (file,) = tmp_path.glob("date=*/hour=*/*")
    left = file.with_name(f".{file.name}.incomplete")
    left.write_text("half")
    ParquetFiles(str(tmp_path))
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    with pytest.raises(StartupError, match="--flow-logs-file a file that can be written"):
        JsonLines(tmp_path / "nowhere" / "flows")


def test_parquet_is_partitioned_by_time_and_has_all_columns(tmp_path):
    files = ParquetFiles(str(tmp_path / "new"))
    for number in (0, 1, HOUR, 2 * HOUR):
        files.write(flows(number))
    assert parquet(tmp_path / "new") == [
        "date=2023-11-14/hour=22/flows-20231114T221330000Z-20231114T221400000Z.parquet",
        "date=2023-11-14/hour=22/flows-20231114T221400000Z-20231114T221430000Z.parquet",
        "date=2023-11-14/hour=23/flows-20231114T231330000Z-20231114T231400000Z.parquet",
        "date=2023-11-15/hour=00/flows-20231115T001330000Z-20231115T001400000Z.parquet",
    ]
    read = pl.read_parquet(tmp_path / "new/**/*.parquet", hive_partitioning=False)
    assert read.schema == SCHEMA
    assert read.equals(pl.concat(flows(number) for number in (0, 1, HOUR, 2 * HOUR)))


def test_a_window_that_is_written_again_is_there_once(tmp_path):
    files = ParquetFiles(str(tmp_path))
    for _ in range(2):
        files.write(flows())
    assert len(parquet(tmp_path)) == 1


def test_a_window_without_flows_is_no_file(tmp_path):
    ParquetFiles(str(tmp_path)).write(flows(count=0))
    assert parquet(tmp_path) == []


def test_the_oldest_parquet_goes_beyond_the_size_also_after_a_restart(tmp_path):
    ParquetFiles(str(tmp_path)).write(flows())
    (file,) = tmp_path.rglob("*.parquet")
    size = file.stat().st_size
    for number in range(1, 6):
        ParquetFiles(str(tmp_path), most_bytes=3 * size + 100).write(flows(number * HOUR))
    assert [path.split("/")[:2] for path in parquet(tmp_path)] == [
        ["date=2023-11-15", "hour=01"],
        ["date=2023-11-15", "hour=02"],
        ["date=2023-11-15", "hour=03"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["date=2023-11-15"]  # empty partitions are gone


def test_files_of_others_are_left_alone(tmp_path):
    other = tmp_path / "date=today" / "hour=now" / "flows-1.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(1000))
    ParquetFiles(str(tmp_path), most_bytes=1).write(flows())
    assert len(parquet(tmp_path)) == 2


def test_the_oldest_parquet_goes_after_its_time(tmp_path):
    files = ParquetFiles(str(tmp_path), most_hours=2)
    for number in range(6):
        files.write(flows(number * HOUR))
    assert [path.split("/")[1] for path in parquet(tmp_path)] == ["hour=01", "hour=02", "hour=03"]


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "http://host/flows", "gcs://bucket/prefix"])
def test_a_url_of_no_object_store_is_an_error_at_the_start(url):
    with pytest.raises(StartupError, match=r"there is no object store .* s3://BUCKET/PREFIX"):
        ParquetFiles(url)


def test_a_parquet_directory_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="--parquet-dir a directory that can be written"):
        ParquetFiles(str(tmp_path / "file" / "below"))


class Place:
    """Files that fail while they are told to."""

    name = "there"

    def __init__(self):
        self.failing = False
        self.written = []

    def write(self, flows):
        if self.failing:
            raise OSError(28, "No space left on device")
        self.written.append(flows["window_start"][0])


def starts(*numbers):
    return [flows(number)["window_start"][0] for number in numbers]


async def until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - it is another thread's doing
        await asyncio.sleep(0.005)
    assert condition()


def test_what_cannot_be_written_waits_and_is_written_in_order(caplog):
    caplog.set_level(logging.WARNING)
    place = Place()

    async def main():
        writer = FlowWriter(place)
        running = asyncio.create_task(writer.run())
        place.failing = True
        for number in range(3):
            writer.put(flows(number))
            await asyncio.sleep(0.02)
        await until(lambda: writer.statistics.windows_waiting == 3)
        place.failing = False
        writer.put(flows(3))
        await until(lambda: len(place.written) == 4)
        writer.finish()
        await running
        return writer.statistics

    statistics = asyncio.run(main())
    assert place.written == starts(0, 1, 2, 3)
    assert (statistics.windows_written, statistics.flows_written, statistics.windows_waiting) == (4, 12, 0)
    assert [record.message for record in caplog.records] == [
        "cannot write flows to there: [Errno 28] No space left on device; all else goes on",
        "flows are written to there again",
    ]


@pytest.mark.parametrize(
    ("url", "variables", "reason"),
    [
        ("s3://bucket/flows", {"AWS_PROFILE": "nowhere"}, r"The config profile \(nowhere\) could not be found"),
        (
            "gs://bucket/flows",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"},
            r"File /nowhere\.json was not found",
        ),
    ],
)
def test_a_store_without_credentials_is_tried_again(url, variables, reason, monkeypatch, caplog):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async def main():
        writer = FlowWriter(ParquetFiles(url))
        running = asyncio.create_task(writer.run())
        writer.put(flows())
        await until(lambda: caplog.text or running.done())
        writer.finish()
        await running
        writer.close()
        return writer.statistics

    assert asyncio.run(main()).windows_waiting == 1
    assert re.search(f"cannot write flows to {url}: .*{reason}.*; all else goes on", caplog.text)


def test_what_waits_is_bounded_and_the_oldest_goes(caplog):
    place = Place()
    place.failing = True

    async def main():
        writer = FlowWriter(place)
        running = asyncio.create_task(writer.run())
        for number in range(MOST_WAITING_WINDOWS + 3):
            writer.put(flows(number))
            await asyncio.sleep(0.01)
        await until(lambda: writer.statistics.windows_dropped == 3)
        writer.finish()
        await running
        writer.close()
        return writer.statistics

    statistics = asyncio.run(main())
    assert (statistics.windows_dropped, statistics.flows_dropped) == (3, 9)
    assert statistics.windows_waiting == MOST_WAITING_WINDOWS
    assert "8 windows of flows could not be written to there and are lost" in caplog.text


def test_a_window_that_is_still_being_written_at_the_end_is_told_of(caplog):
    place = Place()
    never = threading.Event()
    place.write = lambda _: never.wait(60)

    async def main():
        writer = FlowWriter(place)
        running = asyncio.create_task(writer.run())
        writer.put(flows(0))
        writer.finish()
        await asyncio.wait((running,), timeout=0.1)
        writer.close()
        running.cancel()

    started = time.monotonic()
    asyncio.run(main())
    never.set()
    assert time.monotonic() - started < 4
    assert "1 windows of flows could not be written to there and are lost" in caplog.text


def test_a_directory_that_went_away_comes_back(tmp_path):
    place = tmp_path / "flows"
    files = ParquetFiles(str(place))
    place.rmdir()
    files.write(flows())
    assert len(parquet(place)) == 1
