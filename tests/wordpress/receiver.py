"""Takes events in place of the server, and verifies them as the server does.

It is written from the description of the interface, and shares no code with the plugin.
"""

import hashlib
import hmac
import json
import re
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def derive(secret, purpose):
    return hmac.new(secret.encode(), f"buddyline {purpose} v1".encode(), hashlib.sha256).digest()


def sign(key, body, at):
    return f"t={at},v1=" + hmac.new(key, f"{at}.{body}".encode(), hashlib.sha256).hexdigest()


def is_signed(key, header, body):
    parts = [part.split("=", 1) for part in header.split(",") if "=" in part]
    times = [value for name, value in parts if name == "t"]
    if len(times) != 1 or abs(time.time() - int(times[0])) > 300:
        return False
    expected = hmac.new(key, times[0].encode() + b"." + body, hashlib.sha256).hexdigest()
    return any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")


class Receiver:
    """A server on loopback; `events` are those that were accepted, `requests` counts all."""

    def __init__(self, port=0):
        self.secrets, self.events, self.bodies, self.ids = [], [], [], set()
        self.requests, self.refused, self.answer = 0, [], None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                receiver.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer, headers = receiver.take(self.path, self.headers, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

        socketserver.TCPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, path, headers, raw):
        if self.answer:
            return self.answer
        refused = (401, {"error": "unauthorized"}, {})
        if path != "/site/events" or headers["Content-Type"] != "application/json" or len(raw) > 524288:
            self.refused.append("request")
            return refused
        keys = [derive(secret, "events") for secret in self.secrets]
        if not any(is_signed(key, headers.get("Buddyline-Signature", ""), raw) for key in keys):
            self.refused.append("signature")
            return refused
        body = json.loads(raw)
        if not re.fullmatch("[A-Za-z0-9_-]{16,64}", body["id"]) or body["id"] in self.ids:
            self.refused.append("id")
            return refused
        self.ids.add(body["id"])
        self.bodies.append(body)
        self.events += body["events"]
        return 200, {"accepted": len(body["events"]), "ignored": 0}, {}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
