"""What both ends of the wire tell gRPC."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_MESSAGE_BYTES

SERVICE = intake_pb2.DESCRIPTOR.services_by_name["Intake"].full_name
METHOD = "Connect"
# A peer that a firewall hides is found within the sum of these.
KEEPALIVE_MS = 8_000
KEEPALIVE_TIMEOUT_MS = 4_000

_SHARED_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
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
    # A second reducer on the same port must fail, not take half of the collectors.
    ("grpc.so_reuseport", 0),
)
