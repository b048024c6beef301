"""Credentials from a command that a kubeconfig names (`exec`), as `aws` and `gke-gcloud-auth-plugin` give them.

By https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import StartupError

if TYPE_CHECKING:
    from k8s_collector.fields import Object
    from k8s_collector.kubeconfig import Chosen

_LONGEST_S = 60.0
_LONGEST_TEXT = 500
_MOST_BYTES = 1 << 20
_EXTENSION = "client.authentication.k8s.io/exec"


async def user_by_command(chosen: Chosen) -> Object:
    """Run the command of the user of a kubeconfig; return the user with what it gave in the command's place.

    Raises:
        StartupError: it gave no credentials.

    """
    command = chosen.user["exec"]
    name = command["command"]
    if command.get("interactiveMode") == "Always":
        raise StartupError(f"{name} gives credentials only to who sits at a terminal (interactiveMode: Always)")
    given = _credentials(name, await _output(command, _asked(command, chosen.cluster)))
    user = {key: value for key, value in chosen.user.items() if key != "exec"}
    if token := given.get("token"):
        user["token"] = token
    if certificate := given.get("clientCertificateData"):
        user["client-certificate-data"] = base64.b64encode(certificate.encode()).decode()
        user["client-key-data"] = base64.b64encode(given["clientKeyData"].encode()).decode()
    return user


def _asked(command: Object, cluster: Object) -> Object:
    """Return what the command is told."""
    spec: Object = {"interactive": False}
    if command.get("provideClusterInfo"):
        names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        spec["cluster"] = {name: cluster[name] for name in names if cluster.get(name)}
        if authority := cluster.get("certificate-authority"):
            data = base64.b64encode(Path(authority).read_bytes()).decode()
            spec["cluster"].setdefault("certificate-authority-data", data)
        extensions = {each["name"]: each.get("extension") for each in cluster.get("extensions") or ()}
        if _EXTENSION in extensions:
            spec["cluster"]["config"] = extensions[_EXTENSION]
    return {"apiVersion": command["apiVersion"], "kind": "ExecCredential", "spec": spec}


async def _output(command: Object, asked: Object) -> bytes:
    name = command["command"]
    variables = {each["name"]: str(each["value"]) for each in command.get("env") or ()}
    try:
        process = await asyncio.create_subprocess_exec(
            name,
            *map(str, command.get("args") or ()),
            env=os.environ | variables | {"KUBERNETES_EXEC_INFO": json.dumps(asked)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        hint = f": {' '.join(str(command['installHint']).split())}" if command.get("installHint") else ""
        raise StartupError(f"{error}{hint}") from error
    try:
        async with asyncio.timeout(_LONGEST_S):
            output, said = await asyncio.gather(_last(process.stdout), _last(process.stderr))
            await process.wait()
    except TimeoutError as error:
        await _end(process)
        raise StartupError(f"{name} gave none within {_LONGEST_S:g} s") from error
    except asyncio.CancelledError:
        await _end(process)
        raise
    if process.returncode:
        text = " ".join(said.decode(errors="replace").split())[-_LONGEST_TEXT:]
        raise StartupError(f"{name} ended with {process.returncode}: {text}")
    if len(output) >= _MOST_BYTES:
        raise StartupError(
            f"{name} wrote {_MOST_BYTES >> 20} MiB or more, which is no ExecCredential: see what it writes"
        )
    return output


async def _last(pipe: asyncio.StreamReader | None) -> bytes:
    """Read to the end; return what was read last, `_MOST_BYTES` at most."""
    kept = bytearray()
    while pipe and (read := await pipe.read(_MOST_BYTES)):
        kept += read
        del kept[:-_MOST_BYTES]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the command and what it began; what left its group may hold the pipes for long, and is not waited for."""
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing else closes the pipes
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _credentials(name: str, output: bytes) -> Object:
    """Return the status that the command wrote; what it wrote else is not repeated, since it may be secret."""
    try:
        given: Object = json.loads(output)["status"]
        is_whole = bool(given.get("token") or (given["clientCertificateData"] and given["clientKeyData"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise StartupError(f"{name} wrote no ExecCredential with a token, or with a certificate and its key")
    return given
