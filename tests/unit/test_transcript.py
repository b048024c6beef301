from __future__ import annotations

import contextlib
import json
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from kernel_collector.replay.transcript import _BLOCK, _ENTRY, FORM, TranscriptError, TranscriptReader, TranscriptWriter
from kernel_collector.tcp.hidden_sockets import Walk
from kernel_collector.workloads.processes import Origin
from tests.tcp_records import tcp_records

MUCH = 1 << 30


def write(path, *entries, most=MUCH):
    writer = TranscriptWriter(path, most)
    for entry in entries:
        writer.write(entry)
    writer.flush()
    writer.close()
    return path


def read(path):
    with contextlib.closing(TranscriptReader(path)) as reader:
        return list(reader)


def same(first, second):
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=True)
        return type(first) is type(second) and all(same(one, other) for one, other in pairs)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, OSError):
        return type(first) is type(second) and first.args == second.args
    return type(first) is type(second) and first == second


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        1 << 63,
        0.25,
        "text \udcff ä",
        b"\0\xff",
        [1, "a", [b"x"]],
        (1, "a"),
        {1: "/a", 2: "/b"},
        Origin(b"sh\0-c\0", 7),
        FileNotFoundError(2, "No such file or directory"),
        intake_pb2.Cloud(provider="aws", zone="z"),
        [("id", intake_pb2.Cgroup(id=1 << 63, image="i"))],
        np.arange(5, dtype="<u8"),
        np.zeros(0, "V16"),
        np.array([b"a", b"bc"], "S16"),
        tcp_records({"pid": 3, "comm": b"x"}, {"bytes_sent": 1 << 50}),
        Walk([tcp_records({"pid": 1})], np.array([4], np.uint32)),
        {"tcp": {"socket": np.arange(3, dtype="<u8"), "local_address": np.zeros(3, "V16")}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back(tmp_path, value):
    path = write(tmp_path / "file", {"value": value, "again": value}, {"third": value})
    first, second = read(path)
    assert same(first, {"value": value, "again": value})
    assert same(second, {"third": value})


def test_numbers_of_numpy_come_back_as_numbers(tmp_path):
    assert read(write(tmp_path / "file", {"value": np.uint64(7), "flag": np.bool_(True)})) == [  # noqa: FBT003
        {"value": 7, "flag": True}
    ]


def test_a_recording_is_its_owners_alone(tmp_path):
    assert write(tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_made(tmp_path):
    with pytest.raises(StartupError, match=r"cannot record to .*: No such file"):
        TranscriptWriter(tmp_path / "absent" / "file", MUCH)
    with pytest.raises(StartupError, match="No space left"):
        TranscriptWriter(Path("/dev/full"), MUCH)


def test_a_full_disk_is_told_once_and_what_was_written_stays(tmp_path, caplog):
    writer = TranscriptWriter(tmp_path / "file", MUCH)
    writer.write({"number": 1})
    writer.flush()
    writer.close()
    with Path("/dev/full").open("wb", 0) as full:
        writer._file = full
        for number in range(5):
            writer.write({"number": number})
            writer.flush()
    assert not writer.writing
    [error] = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "No space left" in error
    assert read(tmp_path / "file") == [{"number": 1}]


def test_a_recording_is_bounded(tmp_path, caplog):
    random = np.random.default_rng(1)
    writer = TranscriptWriter(tmp_path / "file", 100_000)
    for number in range(50):
        writer.write({"number": number, "noise": random.bytes(5_000)})
        writer.flush()
    writer.close()
    assert 50_000 < (tmp_path / "file").stat().st_size <= 100_000
    numbers = [entry["number"] for entry in read(tmp_path / "file")]
    assert numbers == list(range(len(numbers)))
    assert caplog.text.count("--record-limit") == 1


def test_what_cannot_be_recorded_ends_the_recording_alone(tmp_path, caplog):
    writer = TranscriptWriter(tmp_path / "file", MUCH)
    writer.write({"value": object()})
    assert not writer.writing
    assert "cannot be recorded" in caplog.text


def test_a_file_cut_off_is_read_as_far_as_it_goes(tmp_path, caplog):
    writer = TranscriptWriter(tmp_path / "file", MUCH)
    for number in range(3):
        writer.write({"number": number})
        writer.flush()
    writer.close()
    whole = (tmp_path / "file").read_bytes()
    block = (len(whole) - len(FORM)) // 3
    for missing, left in ((1, 2), (block - 2, 2), (block, 2), (block + 1, 1), (2 * block + 1, 0)):
        (tmp_path / "cut").write_bytes(whole[:-missing])
        assert read(tmp_path / "cut") == [{"number": number} for number in range(left)]
    assert "cut off" in caplog.text


def test_other_files_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(StartupError, match="is no recording"):
        TranscriptReader(tmp_path / "file")
    with pytest.raises(StartupError, match="cannot read"):
        TranscriptReader(tmp_path / "absent")


def hostile(path, text, data=b""):
    entry = _ENTRY.pack(len(text), len(data)) + text + data
    block = zlib.compress(entry)
    path.write_bytes(FORM + _BLOCK.pack(len(block)) + block)
    return path


@pytest.mark.parametrize(
    "value",
    [
        {"tuple": [], "of": "os:stat_result"},
        {"tuple": [["true"]], "of": "kernel_collector.collector:collect"},
        {"tuple": [], "of": "kernel_collector.absent:X"},
        {"message": "FromCollector", "data": {"bytes": "/w=="}},
        {"message": "Absent", "data": {"bytes": ""}},
        {"array": 0, "rows": 1, "dtype": "O"},
        {"array": 0, "rows": 1 << 40, "dtype": "<u8"},
        {"array": 0, "rows": -1, "dtype": "<u8"},
        {"array": 5, "rows": 0},
        {"array": 0, "rows": 0, "dtype": {"fields": [["a", "<u8", 100]], "size": 4}},
        {"unknown": 1},
        {"dict": [1]},
    ],
)
def test_hostile_entries_are_refused(tmp_path, value):
    path = hostile(tmp_path / "file", json.dumps({"value": value}).encode(), bytes(8))
    with pytest.raises(TranscriptError, match="damaged"):
        read(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_damaged_text_is_refused(tmp_path, text):
    with pytest.raises(TranscriptError):
        read(hostile(tmp_path / "file", text))


def test_damaged_blocks_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(FORM + struct.pack("<I", 4) + b"none")
    with pytest.raises(TranscriptError, match="damaged"):
        read(tmp_path / "file")
