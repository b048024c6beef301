from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from console.cli import main
from reducer.columns.series import EndTable
from reducer.outputs.flow_files import ParquetFiles
from reducer.outputs.flow_records import FlowRecords
from tests.windows import sealed_window

HOUR = 120  # windows
CLIENT = {"workload.name": "web", "ip": "10.0.0.1"}


def write(directory, *hours):
    for number in hours:
        servers = [{"workload.name": name, "process.name": "a\x1b[31mb"} for name in ("db", "cache")]
        rows = [(CLIENT, servers[row], {"bytes": 100 * (row + 1), "packets": 1}) for row in (0, 1)]
        files = ParquetFiles(str(directory))
        files.write(FlowRecords().table(sealed_window(EndTable(), {"flows": rows}, number * HOUR)))


@pytest.fixture
def asked(tmp_path):
    def ask(sql, *options, exit_code=0, directory=tmp_path, **variables):
        arguments = ["query", sql, *(("--parquet-dir", str(directory)) if directory else ()), *options]
        result = CliRunner().invoke(main, arguments, env=variables)
        assert result.exit_code == exit_code, result.output
        return result.output

    return ask


SUMS = "select dest_workload_name, sum(bytes) as bytes, count(*) as windows from flows group by 1 order by bytes desc"


def test_a_table(asked, tmp_path):
    write(tmp_path, 0, 1, 2)
    assert asked(SUMS).splitlines() == [
        "dest_workload_name  bytes  windows",
        "cache                 600        3",
        "db                    300        3",
    ]


def test_csv_and_json(asked, tmp_path):
    write(tmp_path, 0)
    assert asked(SUMS, "--format", "csv") == "dest_workload_name,bytes,windows\ncache,200,1\ndb,100,1\n"
    lines = asked("select sum(bytes) / 2 as half, 1.5 as x from flows", "--format", "json").splitlines()
    assert [json.loads(line) for line in lines] == [{"half": 150.0, "x": 1.5}]


@pytest.mark.parametrize(
    ("time", "day"), [("timestamp '2023-11-15 00:00:00'", 14), ("'2023-11-15T00:00:00Z'", 14), ("now()", 15)]
)
def test_times_are_compared_with_what_sql_has_for_them(asked, tmp_path, time, day):
    write(tmp_path, 0, 24)
    told = asked(f"select max(window_start) as last from flows where window_start < {time}", "--format", "json")
    assert json.loads(told) == {"last": f"2023-11-{day}T22:13:30+00:00"}


def test_now_is_told_in_utc_as_all_times(tmp_path):
    write(tmp_path, 0)
    # In a process of its own: the engine keeps a zone that it has looked up.
    arguments = ["query", "select now() as now from flows limit 1", "--parquet-dir", tmp_path, "--format", "json"]
    command = [sys.executable, "-c", "from console.cli import main; main()", *arguments]
    line = subprocess.run(command, env=os.environ | {"TZ": "JST-9"}, capture_output=True, check=True).stdout
    assert abs(datetime.fromisoformat(json.loads(line)["now"]) - datetime.now(UTC)) < timedelta(hours=1)


def test_lists_are_for_json(asked, tmp_path):
    write(tmp_path, 0)
    sql = "select array_agg(bytes) as all_bytes from flows"
    assert json.loads(asked(sql, "--format", "json")) == {"all_bytes": [100, 200]}
    assert "--format json does" in asked(sql, "--format", "csv", exit_code=1)


def test_hours_and_dates_are_columns(asked, tmp_path):
    write(tmp_path, 0, 1, 2)
    sql = "select count(*) as n from flows where date = date '2023-11-14' and hour = 23"
    assert asked(sql).split() == ["n", "2"]
    (tmp_path / "date=2023-11-14/hour=22").rename(tmp_path / "date=2023-11-14/hour=21")
    assert asked("select distinct hour from flows order by 1").split() == ["hour", "0", "21", "23"]


def test_everything_can_be_printed(asked, tmp_path):
    write(tmp_path, 0)
    text = asked("select *, window_end - window_start as length from flows")
    assert "2023-11-14 22:13:30+00:00" in text
    assert "0:00:30" in text
    assert "\x1b" not in text
    assert asked("select * from flows limit 0").startswith("window_start")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select sum(byte) from flows", "unable to find column \"byte\"; did you mean 'bytes'?"),
        ("select nothing_like_it from flows", "`select * from flows limit 1` shows all columns"),
        ("selec 1", "Expected: an SQL statement, found: selec"),
        ("select 1 from flow", "relation 'flow' was not found"),
        ("", "error: cannot answer"),
        ("drop table flows", "DROP would change nothing: ask with SELECT"),
        ("; -- all\n /* of\nthem */ Truncate flows", "TRUNCATE would change nothing"),
        (";" + ("-" * 40 + "\n") * 8 + "selec 1", "Expected: an SQL statement, found: selec"),
        ("/* a */" + "--" * 40 + "\ndrop table flows", "DROP would change nothing"),
        ("delete from flows where bytes > 0", "DELETE would change nothing"),
        ("create table more as select * from flows", "CREATE would change nothing"),
        ("describe flows", "that is no question: ask with SELECT"),
        ("update flows set bytes = 0", "that is no question: ask with SELECT"),
    ],
)
def test_bad_sql_is_one_clear_error(asked, tmp_path, sql, message):
    write(tmp_path, 0)
    output = asked(sql, exit_code=1)
    assert message in output
    assert output.startswith("error: cannot answer: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    "sql", ["with a as (select 1 as n) select n from a", "(select 1)", "explain select 1", "show tables", "from flows"]
)
def test_all_that_reads_is_answered(asked, tmp_path, sql):
    write(tmp_path, 0)
    assert asked(sql)


def test_directories_without_flows(asked, tmp_path):
    assert "there are no flows in" in asked(SUMS, exit_code=1)
    assert "there is no directory /nowhere" in asked(SUMS, exit_code=1, directory="/nowhere")
    assert "--parquet-dir" in asked(SUMS, exit_code=2, directory=None)
    write(tmp_path, 0)
    assert "cache" in asked(SUMS, directory=None, EBPF_NET_REDUCER_PARQUET_DIR=str(tmp_path))


def test_a_file_that_is_no_parquet(asked, tmp_path):
    write(tmp_path, 0)
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(b"PAR1 and no more")
    assert asked(SUMS, exit_code=1).startswith("error: cannot answer: ")


def test_files_of_another_version_have_nulls_for_what_they_lack(asked, tmp_path):
    write(tmp_path, 0)
    (file,) = tmp_path.rglob("*.parquet")
    pl.read_parquet(file).drop("udp_bytes").with_columns(new=1).write_parquet(file)
    assert asked("select sum(bytes) as b, count(udp_bytes) as u from flows").split() == ["b", "u", "300", "0"]


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of a server that speaks S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/net", method="PUT")).close()
    settings = {
        "ENDPOINT_URL": url,
        "ALLOW_HTTP": "true",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "r",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield "s3://net/flows"
    server.stop()


def test_an_object_store(asked, bucket):
    write(bucket, 0, 1)
    assert asked(SUMS, directory=bucket).splitlines()[1:] == [
        "cache                 400        2",
        "db                    200        2",
    ]
    with pytest.raises(OSError, match="NoSuchBucket"):
        write("s3://another/flows", 0)
