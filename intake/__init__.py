"""What both ends of the wire share: columns, session, acknowledgement, spool, credentials."""

from __future__ import annotations

import os

# What gRPC's core writes to standard error, past the log, says in many lines what the log says in one.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
