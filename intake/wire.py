"""What both ends of the wire tell gRPC."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_MESSAGE_BYTES

SERVICE = intake_pb2.DESCRIPTOR.services_by_name["Intake"].full_name
METHOD = "Connect"
# For peers that vanished; a proxy between may answer these, and the session's heartbeats find a loss sooner.
KEEPALIVE_MS = 8_000
# gRPC makes it TCP_USER_TIMEOUT too: a reducer that is busy for as long would lose its collectors.
KEEPALIVE_TIMEOUT_MS = 20_000
# Until the first frame of HTTP/2, and without a stream: a collector has one from the beginning.
HANDSHAKE_TIMEOUT_MS = 20_000
IDLE_TIMEOUT_MS = 60_000

_SHARED_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # the one above is not enforced: grpc/grpc#39239
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT_OPTIONS = (
    *_SHARED_OPTIONS,
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    # The session backs off by itself, from a new channel each time.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # The reducer is where the options say, not behind the proxy of http_proxy.
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS = (
    *_SHARED_OPTIONS,
    # For collectors that vanished; those that live ping more often.
    ("grpc.keepalive_time_ms", 4 * KEEPALIVE_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    # What a stream may have under way before it is read: gRPC would let it grow to megabytes for each collector.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 18),
    # Connections on which nobody comes to speak: each takes a file and 15 KB.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_connection_idle_ms", IDLE_TIMEOUT_MS),
    # A second reducer on the same port must fail, not take half of the collectors.
    ("grpc.so_reuseport", 0),
)
