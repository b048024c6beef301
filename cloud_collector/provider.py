"""What the collector wants of a cloud provider; each is a module of `cloud_collector.providers`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ebpf_net.v1 import intake_pb2


class Scope(NamedTuple):
    """What is read at once, and fails at once.

    Attributes:
        provider: aws, gcp, azure.
        account: AWS account or role, Google project, Azure subscription; empty: that of the credentials.
        region: empty where the provider is not asked by region.

    """

    provider: str
    account: str
    region: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class Cause(Enum):
    """Why a provider did not answer."""

    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    THROTTLED = "throttled"
    NETWORK = "network"
    FAULT = "fault"
    OTHER = "other"

    @property
    def passes(self) -> bool:
        """Whether it mostly passes by itself: then it tells nothing of what there is."""
        return self in (Cause.THROTTLED, Cause.NETWORK, Cause.FAULT)


class ProviderError(Exception):
    """A provider did not tell what was asked; the message says what to do.

    Attributes:
        cause: of what kind.

    """

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Scopes(NamedTuple):
    """The scopes of a provider.

    Attributes:
        found: those that there are now.
        unknown: why those of an account could not be had, by account.

    """

    found: list[Scope]
    unknown: dict[str, ProviderError]

    def may_hold(self, scope: Scope) -> bool:
        """Return whether a scope of the provider is one of them, as far as is known."""
        return scope in self.found or scope.account in self.unknown


class Found(NamedTuple):
    """What a scope holds.

    Attributes:
        interfaces: all of its interfaces.
        lacking: what could not be told of them, and what to do: they are told without it.

    """

    interfaces: list[intake_pb2.CloudInterface]
    lacking: tuple[ProviderError, ...] = ()


class Provider(Protocol):
    """A provider. Its methods block, and are called in threads, `read` for several scopes at once."""

    name: str

    def scopes(self) -> Scopes:
        """Return the scopes that there are now.

        Raises:
            ProviderError: those of no account can be had.

        """

    def read(self, scope: Scope) -> Found:
        """Return what a scope holds now.

        Raises:
            ProviderError: its interfaces cannot be had whole.

        """
