"""A DNS server that answers all with an address, or a client that asks it at a rate, for benchmarks.

    dns_load.py serve ADDRESS
    dns_load.py ask ADDRESS RATE NAMES PER-SOCKET

NAMES is of how many names each is asked, in turn; PER-SOCKET how many queries a socket is used for.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

# Name by compression, type A, class IN, a time to live of 60 s, 4 bytes.
RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4"


def serve(address: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind((address, 53))
        print("serving", flush=True)
        while True:
            query, client = server.recvfrom(512)
            header = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            server.sendto(header + query[12:] + RECORD + query[13:17], client)


def ask(address: str, rate: int, names: int, per_socket: int) -> None:
    asked = unanswered = 0
    begin = time.monotonic()
    client = None
    while True:
        for _ in range(max(1, rate // 1000)):
            if client is None or asked % per_socket == 0:
                if client:
                    client.close()
                client = socket.socket(type=socket.SOCK_DGRAM)
                client.settimeout(1)
                client.connect((address, 53))
            name = b"%08x" % (asked % names)
            client.send(
                struct.pack("!6H", asked & 0xFFFF, 0x100, 1, 0, 0, 0) + b"\x08" + name + b"\x07example\0\0\1\0\1"
            )
            try:
                client.recv(512)
            except TimeoutError:
                unanswered += 1
            asked += 1
        if asked % rate == 0:
            print(f"{asked / (time.monotonic() - begin):.0f} queries/s, {unanswered} without answer", flush=True)
        time.sleep(max(0.0, begin + asked / rate - time.monotonic()))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], *map(int, sys.argv[3:]))
