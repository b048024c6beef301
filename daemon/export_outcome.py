"""What becomes of a request to a receiver of OTLP that is sent once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accepted:
    """The receiver has the request, except for *rejected* of its points or records; *message* says why, or warns."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True)
class Refused:
    """The receiver will not take the request, however often it is sent."""

    reason: str


@dataclass(frozen=True)
class Unavailable:
    """The receiver may take the request later; not before *retry_after_s*, which is 0 where it did not say so."""

    reason: str
    retry_after_s: float = 0.0


Outcome = Accepted | Refused | Unavailable
