"""The ceiling of HTTP on this machine: `GET /N` answers N bytes that cost nothing to make.

Run as `python -m benchmarks.loopback`.
"""

import socket

_BUFFER = bytes(1 << 20)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"


def answer(connection: socket.socket) -> None:
    """Answer the requests of one connection until it closes."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                return
            received += part
        request, _, received = received.partition(b"\r\n\r\n")
        left = int(request.split(b" ", 2)[1].rpartition(b"/")[2])
        connection.sendall(_HEAD % left)
        while left:
            piece = memoryview(_BUFFER)[: min(left, len(_BUFFER))]
            connection.sendall(piece)
            left -= len(piece)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer(connection)


if __name__ == "__main__":
    main()
