"""Reads all scopes of all providers, several at once, and keeps what each says or why it does not."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cloud_collector.provider import Cause, ProviderError, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud_collector.inventory import Inventory
    from cloud_collector.provider import Provider, Scopes

_LOGGER = logging.getLogger(__name__)
MOST_THREADS = 8
# After so many readings in a row whose names are not to be had, what there is is told without.
MOST_READINGS_WITHOUT_NAMES = 10
_LONGEST_TEXT = 500
_Answer = TypeVar("_Answer")


class Reader:
    """What goes on between providers and inventory.

    Attributes:
        failures: what failed when it was last tried, by scope; it has no region where that was to tell the scopes of an
            account, and no account either where it was to tell those of the provider.
        lacking: what could not be told of a scope's interfaces.
        reads: scopes that were read.
        failed: how often one was not.

    """

    def __init__(self, providers: Sequence[Provider], inventory: Inventory) -> None:
        self.failures: dict[Scope, ProviderError] = {}
        self.lacking: dict[Scope, tuple[ProviderError, ...]] = {}
        self.reads = self.failed = 0
        self._providers = providers
        self._inventory = inventory
        self._asked: set[Scope] = set()  # what has not been answered yet
        self._waited: Counter[Scope] = Counter()  # readings that were not taken since names were not to be had
        self._threads = ThreadPoolExecutor(MOST_THREADS, "provider")

    async def read(self) -> None:
        """Read everything once, but what is still being read; what fails keeps what it had."""
        await asyncio.gather(*(self._read_provider(provider) for provider in self._providers))

    def close(self) -> None:
        """Start nothing more; what is under way ends by its time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, scope: Scope, question: Callable[[], _Answer]) -> _Answer:
        """Return a provider's answer about a scope.

        What its library raises beside its own errors, of answers that are none or of files that it cannot read, is a
        failure like those: it must not keep the others from being read.
        """
        self._asked.add(scope)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, question)
        except ProviderError:
            raise
        except Exception as error:
            _LOGGER.debug("a provider's library failed", exc_info=True)
            text = " ".join(str(error).split())
            raise ProviderError(Cause.OTHER, f"{type(error).__name__}: {text[:_LONGEST_TEXT]}") from error
        finally:
            self._asked.remove(scope)

    async def _read_provider(self, provider: Provider) -> None:
        every = Scope(provider.name, "", "")
        if every in self._asked:
            return
        try:
            scopes = await self._ask(every, provider.scopes)
        except ProviderError as error:
            self._note_failure(every, error)
            return
        self._keep(scopes, provider.name)
        for account, reason in scopes.unknown.items():
            self._note_failure(Scope(provider.name, account, ""), reason)
        await asyncio.gather(*(self._read_scope(provider, scope) for scope in scopes.found))

    def _keep(self, scopes: Scopes, provider: str) -> None:
        """Forget the scopes of *provider* that are not among *scopes*, and that these could not be had before."""
        self._inventory.keep(scopes, provider)
        accounts = {"", *(scope.account for scope in scopes.found)}
        known = {scope for scope in (*self.failures, *self.lacking) if scope.provider == provider}
        for scope in known:
            if scopes.may_hold(scope):
                continue
            if not scope.region and scope.account in accounts:
                self._note_success(scope)
            elif self.failures.pop(scope, None):
                _LOGGER.info("%s is gone", scope)
            self.lacking.pop(scope, None)
            del self._waited[scope]

    async def _read_scope(self, provider: Provider, scope: Scope) -> None:
        if scope in self._asked:
            return
        try:
            found = await self._ask(scope, partial(provider.read, scope))
        except ProviderError as error:
            self._note_failure(scope, error)
            return
        lack = next((each for each in found.lacking if each.cause.passes), None)
        if lack and self._read_before_is_better(scope):
            self._waited[scope] += 1
            self._note_failure(scope, lack)
            return
        del self._waited[scope]
        self._note_success(scope)
        self.reads += 1
        self._inventory.replace(scope, found.interfaces)
        known = {str(each) for each in self.lacking.get(scope, ())}
        for lack in found.lacking:
            _LOGGER.log(logging.DEBUG if str(lack) in known else logging.WARNING, "some names are not told: %s", lack)
        self.lacking[scope] = found.lacking

    def _read_before_is_better(self, scope: Scope) -> bool:
        """Whether a scope was read with more of its names, and not so long ago that these say more than what is new."""
        if scope not in self.lacking or any(lack.cause.passes for lack in self.lacking[scope]):
            return False
        return self._waited[scope] < MOST_READINGS_WITHOUT_NAMES

    def _note_failure(self, scope: Scope, error: ProviderError) -> None:
        known = self.failures.get(scope)
        again = known is not None and known.cause is error.cause
        self.failures[scope] = error
        self.failed += 1
        _LOGGER.log(logging.DEBUG if again else logging.WARNING, "%s keeps what it had: %s", scope, error)

    def _note_success(self, scope: Scope) -> None:
        if self.failures.pop(scope, None):
            _LOGGER.info("%s is read again", scope)
