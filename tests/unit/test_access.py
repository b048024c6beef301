"""Which credentials are used, and what is said of those that cannot be."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml

from daemon.errors import StartupError
from k8s_collector.access import Access, load


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
        (("sh", "-c", "echo sign in first >&2; exit 3"), "exec: process returned 3. b'sign in first'"),
    ],
)
def test_a_command_that_gives_none_is_told_of_with_its_reason(written, words, said):
    path = written(command(*words))
    assert f"kubeconfig {path} cannot be used: no credentials for its user: " in error_of(Access(path))
    assert said in error_of(Access(path))


def test_of_several_files_some_may_be_missing(written, tmp_path):
    path = written({"token": "t"})
    absent = tmp_path / "absent"
    assert asyncio.run(load(Access(f"{absent}:{path}"))).api_key == {"BearerToken": "Bearer t"}
    assert error_of(Access(f"{absent}")) == f"kubeconfig {absent} does not exist: see to --kubeconfig or KUBECONFIG"


@pytest.mark.parametrize("content", ["", "- a list", "contexts: 1"])
def test_a_file_that_is_no_kubeconfig(tmp_path, content):
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    assert error_of(Access(f"{path}")).startswith(f"kubeconfig {path} is none: ")


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
