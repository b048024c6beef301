"""Which credentials are used, and what is said of those that cannot be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from daemon.errors import StartupError
from k8s_collector import credential_command
from k8s_collector.access import Access, find_access, load
from tests.lab.waiting import wait_until


@pytest.fixture
def written(tmp_path):
    """What writes a kubeconfig with two contexts, and a user of theirs."""

    def write(user, **of_file):
        path = tmp_path / "kubeconfig"
        contexts = [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("blue", "green")]
        clusters = [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443"}}]
        content = {"contexts": contexts, "clusters": clusters, "users": [{"name": "u", "user": user}]}
        path.write_text(yaml.safe_dump(content | (of_file or {"current-context": "blue"})))
        return str(path)

    return write


def command(*words):
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": words[0], "args": list(words[1:])}}


def error_of(access):
    with pytest.raises(StartupError) as raised:
        asyncio.run(load(access))
    return str(raised.value)


def test_a_context_that_there_is(written):
    assert asyncio.run(load(Access(written({"token": "t"}), "green"))).api_key == {"BearerToken": "Bearer t"}


@pytest.mark.parametrize("current", [{"kind": "Config"}, {"current-context": ""}, {"current-context": "gone"}])
def test_who_names_a_context_needs_no_current_one(written, current):
    path = written({"token": "t"}, **current)
    assert asyncio.run(load(Access(path, "green"))).api_key == {"BearerToken": "Bearer t"}


def test_a_file_without_contexts(written):
    path = written({"token": "t"}, contexts=[])
    assert error_of(Access(path, "red")) == f"kubeconfig {path} has no context red: see to --context; it has none"


def test_a_context_that_there_is_not_is_named_with_those_that_there_are(written):
    path = written({"token": "t"})
    assert (
        error_of(Access(path, "red")) == f"kubeconfig {path} has no context red: see to --context; it has blue, green"
    )


def test_a_command_that_gives_credentials(written):
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}
    user = command("echo", json.dumps(said))
    assert asyncio.run(load(Access(written(user)))).api_key == {"BearerToken": "Bearer t"}


@pytest.mark.parametrize("command_path", ["./helper", "bin/helper", "{}/bin/helper"])
def test_the_path_of_a_command_begins_where_the_file_is(written, tmp_path, monkeypatch, command_path):
    for directory in (tmp_path, tmp_path / "bin", tmp_path / "elsewhere"):
        directory.mkdir(exist_ok=True)
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}
    for helper in (tmp_path / "helper", tmp_path / "bin" / "helper"):
        helper.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
        helper.chmod(0o755)
    written(command(command_path.format(tmp_path)))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asyncio.run(load(Access("../kubeconfig"))).api_key == {"BearerToken": "Bearer t"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no-such-helper",), "No such file or directory: 'no-such-helper'"),
        (("sh", "-c", "echo sign in first >&2; exit 3"), "sh ended with 3: sign in first"),
        (("sh", "-c", "cat"), "sh wrote no ExecCredential"),  # there is nobody to be asked
        (("echo", '{"status": {"clientCertificateData": "c"}}'), "echo wrote no ExecCredential"),
        (("echo", "[]"), "echo wrote no ExecCredential"),
    ],
)
def test_a_command_that_gives_none_is_told_of_with_its_reason(written, words, said):
    path = written(command(*words))
    assert f"kubeconfig {path} cannot be used: no credentials for its user: " in error_of(Access(path))
    assert said in error_of(Access(path))


def test_a_command_that_does_not_end_is_not_waited_for(written, monkeypatch):
    monkeypatch.setattr(credential_command, "_LONGEST_S", 0.05)
    path = written(command("sh", "-c", "sleep 600; true"))
    assert error_of(Access(path)).endswith("no credentials for its user: sh gave none within 0.05 s")


def test_what_such_a_command_began_is_ended_and_what_left_its_group_not_waited_for(written, tmp_path, monkeypatch):
    """Also where the command itself has ended: they hold its output."""
    monkeypatch.setattr(credential_command, "_LONGEST_S", 4.0)
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! >{pids}; setsid sleep 600 & echo $! >>{pids}"
    try:
        assert error_of(Access(written(command("sh", "-c", script)))).endswith("sh gave none within 4 s")
        begun, left = map(int, pids.read_text().split())
        wait_until(lambda: not is_running(begun), 60, "what the command began to be ended")
        assert is_running(left)
    finally:
        for pid in map(int, pids.read_text().split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_running(pid):
    """Whether there is such a process that has not ended; who is to reap it may never do so."""
    status = Path(f"/proc/{pid}/stat")
    with suppress(FileNotFoundError, ProcessLookupError):
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_who_has_no_such_command_is_told_how_to_get_it(written):
    user = command("no-such-helper")
    user["exec"]["installHint"] = "Install it\nfrom there"
    assert error_of(Access(written(user))).endswith(
        "No such file or directory: 'no-such-helper': Install it from there"
    )


def test_a_command_that_writes_more_than_credentials_may_be(written):
    script = """head -c 1048576 /dev/zero | tr '\\0' ' '; echo '{"status": {"token": "t"}}'"""
    error = error_of(Access(written(command("sh", "-c", script))))
    assert error.endswith("sh wrote 1 MiB or more, which is no ExecCredential: see what it writes")


def test_what_a_command_that_fails_said_last(written):
    script = "head -c 2000000 /dev/zero | tr '\\0' ' ' >&2; echo sign in first >&2; exit 3"
    assert error_of(Access(written(command("sh", "-c", script)))).endswith("sh ended with 3: sign in first")


def test_a_command_that_wants_a_terminal(written):
    user = command("true")
    user["exec"]["interactiveMode"] = "Always"
    assert "true gives credentials only to who sits at a terminal" in error_of(Access(written(user)))


def test_what_a_command_is_told_and_a_certificate_that_it_gives(written, tmp_path):
    """It writes what it was told as its certificate, which nobody looks into here."""
    (tmp_path / "ca.crt").write_text("authority")
    script = """python3 -c '
import json, os
given = {"clientCertificateData": os.environ["KUBERNETES_EXEC_INFO"], "clientKeyData": os.environ["MORE"]}
print(json.dumps({"status": given}))'"""
    user = command("sh", "-c", script)
    user["exec"] |= {"provideClusterInfo": True, "env": [{"name": "MORE", "value": "key"}]}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"}}
    cluster = {"server": "https://[2001:db8::1]:6443/clusters/c-1", "certificate-authority": "ca.crt"}
    clusters = [{"name": "c", "cluster": cluster | {"extensions": [extension]}}]
    loaded = asyncio.run(load(Access(written(user, clusters=clusters), "blue")))
    told = json.loads(Path(loaded.cert_file).read_text())
    authority = base64.b64encode(b"authority").decode()
    expected = {"server": cluster["server"], "certificate-authority-data": authority, "config": {"audience": "a"}}
    assert told["spec"] == {"interactive": False, "cluster": expected}
    assert Path(loaded.key_file).read_text() == "key"


def test_of_several_files_the_first_counts_and_paths_begin_where_theirs_is(written, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("client.crt", "client.key"):
        (elsewhere / name).touch()
    (tmp_path / "ca.crt").touch()
    cluster = {"server": "https://192.0.2.1:6443", "certificate-authority": "ca.crt"}
    contexts = [{"name": "blue", "context": {"cluster": "c", "user": "other"}}]
    clusters = [{"name": "c", "cluster": cluster}]
    first = written({"token": "t"}, **{"clusters": clusters, "contexts": contexts, "current-context": "blue"})
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    second = elsewhere / "kubeconfig"
    content = {"users": [{"name": "u", "user": {}}, {"name": "other", "user": user}], "current-context": "green"}
    second.write_text(yaml.safe_dump(content))
    loaded = asyncio.run(load(Access(f"{first}:{second}")))
    assert (loaded.ssl_ca_cert, loaded.cert_file, loaded.key_file) == (
        str(tmp_path / "ca.crt"),
        str(elsewhere / "client.crt"),
        str(elsewhere / "client.key"),
    )


@pytest.mark.parametrize(
    ("of_file", "said"),
    [
        ({"users": []}, "has no user u: see to its context blue; it has none"),
        ({"clusters": [{"name": "d", "cluster": {}}]}, "has no cluster c: see to its context blue; it has d"),
        ({"current-context": ""}, "has no current context: see to --context; it has blue, green"),
    ],
)
def test_what_a_context_names_and_there_is_not(written, of_file, said):
    path = written({"token": "t"}, **({"current-context": "blue"} | of_file))
    assert error_of(Access(path)) == f"kubeconfig {path} {said}"


def test_who_acts_as_another_one_says_so(written):
    user = {
        "token": "t",
        "as": "jane",
        "as-uid": "7",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"scopes": ["view"], "example.org/50%": ["all"]},
    }
    assert asyncio.run(load(Access(written(user)))).client_session_kwargs["headers"] == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.org%2F50%25", "all"),
        ("Impersonate-Extra-scopes", "view"),
    ]


def test_a_provider_of_credentials_that_clients_have_no_more(written):
    assert "has the auth-provider azure: " in error_of(Access(written({"auth-provider": {"name": "azure"}})))


@pytest.mark.parametrize("proxy", ["socks5://user:secret@192.0.2.1:1080", "nonsense"])
def test_a_proxy_that_is_none_of_http(written, proxy):
    cluster = {"server": "https://192.0.2.1:6443", "proxy-url": proxy}
    path = written({"token": "t"}, clusters=[{"name": "c", "cluster": cluster}], **{"current-context": "blue"})
    assert "has a proxy-url that is not of an HTTP proxy, such as http://HOST:3128" in error_of(Access(path))
    assert "secret" not in error_of(Access(path))


def test_a_context_means_nothing_in_a_pod():
    with pytest.raises(StartupError, match="--context red is of a kubeconfig"):
        find_access("", "red", {"KUBERNETES_SERVICE_HOST": "fd00::1"})


def test_of_several_files_some_may_be_missing_or_empty(written, tmp_path):
    path = written({"token": "t"})
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.touch()
    assert asyncio.run(load(Access(f"{absent}:{empty}:{path}"))).api_key == {"BearerToken": "Bearer t"}
    assert error_of(Access(f"{empty}")).endswith("has no current context: see to --context; it has none")
    assert "Is a directory" in error_of(Access(f"{tmp_path}"))
    assert error_of(Access(f"{absent}")) == f"kubeconfig {absent} does not exist: see to --kubeconfig or KUBECONFIG"


@pytest.mark.parametrize("content", ["text", "- a list", "contexts: 1"])
def test_a_file_that_is_no_kubeconfig(tmp_path, content):
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    assert error_of(Access(f"{path}")).startswith(f"kubeconfig {path} is none: ")


def test_what_is_wrong_with_a_file_does_not_show_what_is_in_it(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text("users:\n- {token: secret, [")
    assert error_of(Access(f"{path}")).startswith(f"kubeconfig {path} cannot be read: ")
    assert "secret" not in error_of(Access(f"{path}"))


def test_a_token_that_is_none(written):
    assert error_of(Access(written({"token": "a\nb"}))).endswith("cannot be used: its token has control characters")


@pytest.mark.parametrize("server", ["192.0.2.1:6443", "https://[fd00::1:6443", "https://host:66666"])
def test_a_server_that_is_no_url(written, server):
    path = written({"token": "t"}, clusters=[{"name": "c", "cluster": {"server": server}}])
    assert f"has a server that is no URL, such as https://HOST:6443: {server}" in error_of(Access(path, "blue"))


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("10.0.0.0/8, 192.0.2.0/24", True),
        ("192.0.2.1:6443", True),
        ("192.0.2.1:443,10.0.0.0/8,2001:db8::/32,*.example", False),
        ("", False),
    ],
)
def test_no_proxy_may_name_networks(written, monkeypatch, no_proxy, direct):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    options = asyncio.run(load(Access(written({"token": "t"})))).client_session_kwargs
    assert options == ({"trust_env": False} if direct else None)
