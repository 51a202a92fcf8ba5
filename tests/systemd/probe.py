"""Opens WebSockets on the default port; runs inside the container, with only Python's library."""

import base64
import os
import socket
import sys
import time


def opened(wait=30):
    link = socket.create_connection(("127.0.0.1", 8080), timeout=wait)
    key = base64.b64encode(os.urandom(16)).decode()
    link.sendall(
        f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = link.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return link


def ping(link):
    """Sends a masked ping (RFC 6455) and expects its payload in the pong."""
    link.sendall(bytes([0x89, 0x84]) + bytes(4) + b"alive"[:4])
    answer = link.recv(4096)
    assert b"aliv" in answer, answer


match sys.argv[1:]:
    case ["open"]:
        ping(opened())
    case ["stay", seconds]:
        deadline = time.monotonic() + float(seconds)
        link = opened()
        print("in", flush=True)
        while time.monotonic() < deadline:
            ping(link)
            time.sleep(0.1)
    case ["again", seconds]:
        # One after the other: no connection may be refused during a restart or upgrade.
        deadline = time.monotonic() + float(seconds)
        while time.monotonic() < deadline:
            link = opened()
            link.close()
            time.sleep(0.02)
