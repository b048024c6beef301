"""Requests to the API server: JSON in, JSON or a stream of JSON out, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.config.kube_config import _cleanup_temp_files

from daemon.errors import StartupError
from daemon.version import VERSION
from k8s_collector.access import Access, load
from k8s_collector.decoding import WHOLE, Decoder
from k8s_collector.fields import Object  # noqa: TC001 - a field's type

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


_CONNECT_S = 10.0
_ANSWER_S = 60.0
# A watch gives a bookmark each minute; of what has not changed since the server began, many servers give none.
_SILENCE_S = 150.0
# After so long a silence the other end is asked for a sign of life: what was cut off is found out within 45 s.
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 30, 5, 3
# What a stream tells within so long is taken together; of more than so much the reading begins before that.
GATHER_S = 0.25
GATHERED_BYTES = 256 << 10
# etcd takes objects of 1.5 MiB; as JSON they are longer.
MOST_LINE_BYTES = 16 << 20
_ERROR_BYTES = 4_096
LONGEST_RETRY_AFTER_S = 60.0
# Of OpenSSL's x509_vfy.h: the host or address is none of the certificate's; it is not valid yet, or not any more.
_OTHER_NAME, _OTHER_TIME = (62, 64), (9, 10)
# As whom the server takes those who show it nothing that it knows.
_NOBODY = '"system:anonymous"'

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 400, 401, 403, 404, 409, 410


class ApiError(Exception):
    """A request that failed.

    Attributes:
        status: of HTTP; 0: no answer came, or none of an API server.
        retry_after_s: how long the server asks to wait.

    """

    def __init__(self, status: int, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class _Request(NamedTuple):
    method: str
    path: str
    query: list[tuple[str, str]]
    accept: str = "application/json"
    body: Object | None = None
    limits: aiohttp.ClientTimeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=_CONNECT_S)


class Api:
    """The API server of a cluster, by the official client's credentials and connections."""

    def __init__(self, access: Access, client: ApiClient) -> None:
        self._access = access
        self._client = client
        self._requests: Counter[ApiClient] = Counter()
        self._renewing = asyncio.Lock()

    @classmethod
    async def open(cls, access: Access) -> Api:
        """Read the credentials.

        Raises:
            StartupError: there are none that can be used.

        """
        return cls(access, await _client(access))

    @property
    def server(self) -> str:
        """Its URL."""
        return str(self._client.configuration.host)

    async def close(self) -> None:
        """Close all connections."""
        for client in {self._client, *self._requests}:
            await client.close()

    async def get(
        self, path: str, query: list[tuple[str, str]], accept: str = "application/json", decode: Decoder = WHOLE
    ) -> Object:
        """Return the JSON at a path.

        Raises:
            ApiError: it cannot be had.

        """
        return await self._json(_Request("GET", path, query, accept), decode)

    async def send(self, method: str, path: str, body: Object) -> Object:
        """Have the server take an object; return it as the server has it then.

        Raises:
            ApiError: it did not take it.

        """
        return await self._json(_Request(method, path, [], body=body), WHOLE)

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: list[tuple[str, str]], accept: str, decode: Decoder
    ) -> AsyncIterator[AsyncIterator[Object]]:
        """Give, once the server has begun to answer, what yields JSON objects, one a line, until it ends the stream.

        The first after a silence comes at once; what follows within `GATHER_S` is read together. A long silence ends
        the stream too: whether the server is there still, the next request tells.

        Raises:
            ApiError: there is no stream, or it broke off.

        """
        limits = aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        with self._errors():
            async with self._response(_Request("GET", path, query, accept, limits=limits)) as response:
                _keep_alive(response)
                yield self._objects(response, decode)

    async def _objects(self, response: aiohttp.ClientResponse, decode: Decoder) -> AsyncIterator[Object]:
        rest = b""
        async for chunk in _chunks(response):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MOST_LINE_BYTES:
                raise ApiError(0, f"{self.server} sent a line of more than {MOST_LINE_BYTES} bytes")
            for line in lines:
                if line:
                    yield _decoded(line, decode, self.server)
            if not rest:  # what is missing of an object is on its way
                await _gather(response)
        if rest:
            raise ApiError(0, f"{self.server} broke off in the middle of an object")

    async def _renew(self, client: ApiClient) -> None:
        """Read the credentials again, unless that was done since a request of *client* began."""
        async with self._renewing:
            if client is not self._client:
                return
            try:
                renewed = await _client(self._access)
            except StartupError as error:
                raise ApiError(UNAUTHORIZED, str(error)) from error
            self._client = renewed  # the request that was refused closes the other one

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncIterator[ApiClient]:
        """Give the client of the day; one that was replaced is closed when its last request has ended.

        A watch that the server granted it grants to its end, whatever becomes of the credentials.
        """
        client = self._client
        self._requests[client] += 1
        try:
            yield client
        finally:
            self._requests[client] -= 1
            if not self._requests[client]:
                del self._requests[client]
                if client is not self._client:
                    await client.close()

    async def _json(self, request: _Request, decode: Decoder) -> Object:
        with self._errors():
            async with self._response(request) as response:
                return _decoded(await response.read(), decode, self.server)

    @contextlib.asynccontextmanager
    async def _response(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the response if it is a good one; where one end does not trust the other, read the files again."""
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._using())
            response = await self._begin_trusted(client, request)
            if response is None:
                await self._renew(client)
                client = await stack.enter_async_context(self._using())
                response = await self._begin(client, request)
            await stack.enter_async_context(response)
            if response.status >= 300:  # noqa: PLR2004 - the API does not redirect
                raise await self._error(response)
            yield response

    async def _begin_trusted(self, client: ApiClient, request: _Request) -> aiohttp.ClientResponse | None:
        """Return a response; None where the server does not take the credentials, or is not who is trusted."""
        try:
            response = await self._begin(client, request)
        except aiohttp.ClientConnectorCertificateError:  # its authority may have been replaced
            return None
        if response.status != UNAUTHORIZED:
            return response
        response.release()
        return None

    async def _begin(self, client: ApiClient, request: _Request) -> aiohttp.ClientResponse:
        method, url, headers, body, _ = await client.param_serialize(
            request.method,
            request.path,
            query_params=request.query,
            header_params={"Accept": request.accept},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        headers = {name: value.strip() for name, value in headers.items()}  # files of tokens may end with a newline
        answer = await client.call_api(method, url, headers, body, _request_timeout=request.limits)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _error(self, response: aiohttp.ClientResponse) -> ApiError:
        """Return what the server has to say of a request that it did not grant."""
        body = await response.content.read(_ERROR_BYTES)
        said = body.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = str(WHOLE(body)["message"])
        text = f"{response.status} {response.reason}: {' '.join(said.split())[:500]}"
        status = response.status
        if status == FORBIDDEN and _NOBODY in said:
            status = UNAUTHORIZED
        if status == UNAUTHORIZED:
            text = f"{self.server} does not accept the credentials of {self._access}: {text}"
        try:
            after_s = float(response.headers.get("Retry-After", 0))
        except ValueError:  # a date: nobody sends that here
            after_s = 0.0
        return ApiError(status, text, max(0.0, min(after_s, LONGEST_RETRY_AFTER_S)))  # it may be nan

    def _distrust(self, error: Exception) -> str:
        """Return what is wrong with the server's certificate, and what to see to."""
        code = getattr(getattr(error, "certificate_error", error), "verify_code", 0)
        if code in _OTHER_NAME:
            return "has another name: see to the server's URL, or give the kubeconfig's cluster a tls-server-name"
        if code in _OTHER_TIME:
            return "is not valid now: see to it, and to this machine's clock"
        return f"is not from the authority that {self._access} names: is this the cluster?"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Make what the transport raises an `ApiError`."""
        try:
            yield
        except (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError) as error:
            raise ApiError(0, f"the certificate of {self.server} {self._distrust(error)} ({error})") from error
        except aiohttp.ClientProxyConnectionError as error:
            raise ApiError(0, f"cannot reach the proxy before {self.server}: {error.os_error}") from error
        except aiohttp.ClientConnectorError as error:
            raise ApiError(0, f"cannot reach the API server at {self.server}: {error.os_error}") from error
        except TimeoutError as error:
            raise ApiError(0, f"the API server at {self.server} does not answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(0, f"lost the API server at {self.server}: {error or type(error).__name__}") from error


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield what comes until the stream ends, or is silent for long."""
    with contextlib.suppress(aiohttp.SocketTimeoutError):
        async for chunk in response.content.iter_any():
            yield chunk


def _socket_of(response: aiohttp.ClientResponse) -> socket.socket | None:
    """Return the socket that a response comes by; None: it has ended."""
    connection = response.connection
    transport = connection.transport if connection else None
    peer: socket.socket | None = transport.get_extra_info("socket") if transport else None
    return peer


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Have the kernel find out where nothing reaches the other end any more, without a word of it."""
    peer = _socket_of(response)
    if peer is None:
        return
    with contextlib.suppress(OSError):  # the other end may have closed it meanwhile
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


async def _gather(response: aiohttp.ClientResponse) -> None:
    """Let what comes gather in the socket for a while: to be woken for a line costs more than to take it."""
    peer = _socket_of(response)
    if peer is None:
        return
    _wake_at(peer, GATHERED_BYTES)
    try:
        await asyncio.sleep(GATHER_S)
    finally:
        _wake_at(peer, 1)


def _wake_at(peer: socket.socket, waiting_bytes: int) -> None:
    """Have nobody be woken before so much is there to be read."""
    with contextlib.suppress(OSError):  # the other end may have closed it meanwhile
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, waiting_bytes)


def _decoded(text: bytes, decode: Decoder, server: str) -> Object:
    try:
        value = decode(text)
    except ValueError as error:
        raise ApiError(0, f"{server} does not answer as a Kubernetes API server does: {text[:100]!r}") from error
    if not isinstance(value, dict):
        raise ApiError(0, f"{server} does not answer as a Kubernetes API server does: {text[:100]!r}")
    return value


async def _client(access: Access) -> ApiClient:
    try:
        client = ApiClient(await load(access))
    except OSError as error:  # SSLError is one
        raise StartupError(f"the certificates of {access} cannot be used: {error}") from error
    finally:
        # They are read by now, or never will be. No key stays behind, and files that something clears away are not
        # missed the next time.
        _cleanup_temp_files()
    client.user_agent = f"k8s-collector/{VERSION}"
    return client
