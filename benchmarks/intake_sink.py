"""A reducer that only acknowledges, for measuring collectors without the reducer's own work on the same cores."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import grpc
from ebpf_net.v1 import intake_pb2, intake_pb2_grpc

from intake.clock import SECOND_NS
from intake.wire import SERVER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class IntakeSink(intake_pb2_grpc.IntakeServicer):
    """Welcomes each collector, and acknowledges each batch when it comes."""

    def __init__(self, poll_interval_s: float) -> None:
        self._poll_interval_ns = round(poll_interval_s * SECOND_NS)

    async def Connect(  # noqa: N802 - gRPC's name
        self,
        messages: AsyncIterator[intake_pb2.FromCollector],
        _: grpc.aio.ServicerContext[intake_pb2.FromCollector, intake_pb2.FromReducer],
    ) -> AsyncIterator[intake_pb2.FromReducer]:
        """Serve one collector."""
        async for message in messages:
            now_ns = time.time_ns()
            if message.HasField("hello"):
                welcome = intake_pb2.Welcome(
                    version="sink",
                    window_ns=30 * SECOND_NS,
                    poll_interval_ns=self._poll_interval_ns,
                    heartbeat_interval_ns=5 * SECOND_NS,
                    hello_time_unix_ns=message.hello.time_unix_ns,
                    time_unix_ns=now_ns,
                )
                yield intake_pb2.FromReducer(welcome=welcome)
            elif message.HasField("batch"):
                yield intake_pb2.FromReducer(ack=intake_pb2.Ack(number=message.batch.number))
            elif message.HasField("heartbeat"):
                reply = intake_pb2.HeartbeatReply(
                    heartbeat_time_unix_ns=message.heartbeat.time_unix_ns, time_unix_ns=now_ns
                )
                yield intake_pb2.FromReducer(heartbeat=reply)


async def main(port: int, poll_interval_s: float) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    intake_pb2_grpc.add_IntakeServicer_to_server(  # type: ignore[no-untyped-call]
        IntakeSink(poll_interval_s), server
    )
    server.add_insecure_port(f"0.0.0.0:{port}")
    await server.start()
    print("listening", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
