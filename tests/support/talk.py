"""Two WebSocket clients that exchange a message over a server on 127.0.0.1, after a health check.

Plain Python without libraries, for servers that no Rust test starts: builds for other processors
(tests/foreign/run) and servers that systemd starts by socket activation (tests/systemd/activate).
"""

import base64
import json
import os
import socket
import struct
import time


class Member:
    """A minimal WebSocket client (RFC 6455) that identifies as a user."""

    def __init__(self, port, user, seconds=20):
        self.link = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        key = base64.b64encode(os.urandom(16)).decode()
        self.link.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.bytes = b""
        while b"\r\n\r\n" not in self.bytes:
            self.more()
        head, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.say(type="user_connected", userId=user)
        self.wait_for(type="user_connected", userId=user)

    def more(self):
        got = self.link.recv(4096)
        assert got, f"the connection has ended; unread bytes: {self.bytes!r}"
        self.bytes += got

    def say(self, **frame):
        text = json.dumps(frame).encode()
        assert len(text) < 126
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(text))
        self.link.sendall(bytes([0x81, 0x80 | len(text)]) + mask + masked)

    def frame(self):
        """The next frame: its opcode and its payload."""
        def have(count):
            while len(self.bytes) < count:
                self.more()

        have(2)
        length, head = self.bytes[1], 2
        if length == 126:
            have(4)
            length, head = struct.unpack(">H", self.bytes[2:4])[0], 4
        assert length < 0x10000, "no frame here exceeds 65535 bytes"
        have(head + length)
        opcode, payload = self.bytes[0] & 15, self.bytes[head:head + length]
        self.bytes = self.bytes[head + length:]
        return opcode, payload

    def wait_for(self, **fields):
        """The first frame that has these fields; the socket's timeout ends the wait."""
        while True:
            opcode, payload = self.frame()
            assert opcode == 1, (opcode, payload)
            received = json.loads(payload)
            assert received["type"] != "error", received
            if all(received.get(name) == value for name, value in fields.items()):
                return received

    def wait_for_close(self):
        """The code of the close frame."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return struct.unpack(">H", payload[:2])[0]


def ask(port, path):
    """The whole response to a plain HTTP request."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while got := link.recv(65536):
            answer += got
        return answer


def converse(port):
    """Runs the whole exchange and returns the two clients, still connected."""
    assert ask(port, "/healthz").startswith(b"HTTP/1.1 200 ")
    assert b"try-it page" in ask(port, "/")
    alice, bob = Member(port, 1), Member(port, 2)
    for member in (alice, bob):
        member.say(type="join_thread", threadId=7)
        member.wait_for(type="thread_joined", threadId=7)
    alice.say(type="typing", threadId=7)
    bob.wait_for(type="typing", threadId=7, userId=1)
    text = f"said at {time.time()}"
    alice.say(type="send_message", threadId=7, message=text, clientId="one")
    for member in (alice, bob):
        received = member.wait_for(type="message", threadId=7)
        assert text in json.dumps(received), received
    return alice, bob
