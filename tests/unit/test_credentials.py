import logging
import ssl
import subprocess

import click
import pytest
from click.testing import CliRunner

from daemon.errors import StartupError
from intake.credentials import (
    client_credential_options,
    client_credentials,
    server_credentials,
)


def for_client(host="127.0.0.1", **options):
    names = ("intake_tls_ca", "intake_tls_certificate", "intake_tls_key", "intake_token_file")
    return client_credentials(host, **dict.fromkeys(names) | options)


def for_server(**options):
    return server_credentials(**dict.fromkeys(("tls_certificate", "tls_key", "tls_client_ca", "token_file")) | options)


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def pair(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*request.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_without_options_there_is_neither_tls_nor_token():
    client, server = for_client(), for_server()
    assert (client.channel, client.metadata, server.server) == (None, (), None)
    assert server.admits(())
    assert server.admits(None)


def test_the_token_is_shown_and_asked_for(token):
    client, server = for_client(intake_token_file=token), for_server(token_file=token)
    assert client.metadata == (("authorization", "Bearer s3cret"),)
    assert server.admits(client.metadata)
    for metadata in (
        (),
        None,
        (("authorization", "Bearer wrong"),),
        (("authorization", "s3cret"),),
        (("x", "Bearer s3cret"),),
    ):
        assert not server.admits(metadata)
    assert not server.admits((("authorization", "Bearer é"),))


def test_the_token_is_in_no_representation(token):
    assert "s3cret" not in repr(for_client(intake_token_file=token))
    assert "s3cret" not in repr(for_server(token_file=token))


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff\xfe", "tökén".encode()])
def test_a_file_without_a_token_is_told(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="must hold a token"):
        for_client(intake_token_file=path)
    with pytest.raises(StartupError, match="must hold a token"):
        for_server(token_file=path)


@pytest.mark.parametrize(
    ("host", "warned"),
    [("reducer.example", 1), ("10.0.0.1", 1), ("127.0.0.1", 0), ("localhost", 0), ("[::1]", 0), ("::1", 0)],
)
def test_a_token_in_clear_text_is_warned_of(token, caplog, host, warned):
    with caplog.at_level(logging.WARNING):
        for_client(host, intake_token_file=token)
    assert len(caplog.records) == warned
    assert "s3cret" not in caplog.text


def test_a_token_over_tls_is_not_warned_of(token, pair, caplog):
    client = for_client("reducer.example", intake_tls_ca=pair[0], intake_token_file=token)
    assert client.channel is not None
    assert client.tls is not None
    assert client.tls.check_hostname
    assert client.tls.verify_mode is ssl.CERT_REQUIRED
    assert not caplog.records


def test_files_that_cannot_be_read_are_told(tmp_path, pair):
    missing = tmp_path / "missing"
    certificate, key = pair
    for make in (
        lambda: for_client(intake_token_file=missing),
        lambda: for_client(intake_tls_ca=missing),
        lambda: for_client(intake_tls_ca=certificate, intake_tls_certificate=missing, intake_tls_key=key),
        lambda: for_server(token_file=missing),
        lambda: for_server(tls_certificate=certificate, tls_key=missing),
        lambda: for_server(tls_certificate=certificate, tls_key=key, tls_client_ca=missing),
    ):
        with pytest.raises(StartupError, match=r"cannot read .*missing: No such file"):
            make()


def test_files_that_are_not_what_they_should_be_are_told(tmp_path, pair):
    certificate, key = pair
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    with pytest.raises(StartupError, match="holds no certificates in PEM format"):
        for_client(intake_tls_ca=rubbish)
    with pytest.raises(StartupError, match="belong together"):
        for_server(tls_certificate=certificate, tls_key=rubbish)
    with pytest.raises(StartupError, match="belong together"):
        for_server(tls_certificate=rubbish, tls_key=key)
    with pytest.raises(StartupError, match="holds no certificates"):
        for_server(tls_certificate=certificate, tls_key=key, tls_client_ca=rubbish)


def test_a_key_with_a_passphrase_is_told_and_not_asked_for(tmp_path, pair):
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", pair[1], "-out", locked, "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(StartupError, match="without a passphrase"):
        for_server(tls_certificate=pair[0], tls_key=locked)


def test_options_that_go_together_are_told(pair):
    certificate, key = pair
    with pytest.raises(StartupError, match="go together"):
        for_client(intake_tls_ca=certificate, intake_tls_certificate=certificate)
    with pytest.raises(StartupError, match="needs --intake-tls-ca"):
        for_client(intake_tls_certificate=certificate, intake_tls_key=key)
    with pytest.raises(StartupError, match="go together"):
        for_server(tls_key=key)
    with pytest.raises(StartupError, match="--tls-client-ca needs"):
        for_server(tls_client_ca=certificate)


def test_a_collector_is_configured_by_options_or_variables(token, monkeypatch):
    @click.command()
    @client_credential_options
    def command(**options):
        click.echo(client_credentials("localhost", **options).metadata)

    told = CliRunner().invoke(command, ["--intake-token-file", str(token)])
    assert "Bearer s3cret" in told.output
    told = CliRunner().invoke(command, env={"EBPF_NET_INTAKE_TOKEN_FILE": str(token)})
    assert "Bearer s3cret" in told.output
    told = CliRunner().invoke(command, ["--help"]).output
    for name in ("TLS_CA", "TLS_CERTIFICATE", "TLS_KEY", "TOKEN_FILE"):
        assert f"EBPF_NET_INTAKE_{name}" in told
