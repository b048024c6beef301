"""A load of TCP connections, in a process of its own: many that stay idle, or a steady number of new ones a second.

python -m benchmarks.connections idle PAIRS
python -m benchmarks.connections new PER_SECOND
"""

from __future__ import annotations

import socket
import sys
import threading
import time


def hold(pairs: int) -> None:
    """Open *pairs* connections, both ends here, and hold them."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        held = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(pairs)]
        for client, server in held:
            client.sendall(b"x")
            server.recv(1)
        print(f"open: {2 * len(held)} sockets", flush=True)
        threading.Event().wait()


def renew(per_second: int) -> None:
    """Open connections at a steady pace: a request, an answer, closed by the server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    print("open: at a pace", flush=True)
    begin, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begin) * per_second)
        for _ in range(due - done):
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"x" * 100)
                while client.recv(4096):
                    pass
        if done // per_second != due // per_second:
            print(f"{due / (time.monotonic() - begin):.0f} connections/s", flush=True)
        done = due
        time.sleep(0.01)


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"y" * 1000)


if __name__ == "__main__":
    {"idle": hold, "new": renew}[sys.argv[1]](int(sys.argv[2]))
