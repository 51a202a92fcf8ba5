#!/usr/bin/env python3
"""Verifies tests/vectors/signatures.json with Python's hmac, independently of the plugin and the server."""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import sys

vectors = json.loads((pathlib.Path(__file__).parent.parent / "vectors/signatures.json").read_text())


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256)


keys = {p: mac(vectors["secret"].encode(), f"buddyline {p} v1".encode()).digest() for p in vectors["derived"]}
wrong = [p for p, key in keys.items() if key.hex() != vectors["derived"][p]]


def signature_is_valid(case):
    parts = [part.split("=", 1) for part in case["header"].split(",") if "=" in part]
    times = [value for name, value in parts if name == "t"]
    if len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]):
        return False
    expected = mac(keys[case["key"]], f"{times[0]}.{case['body']}".encode()).hexdigest()
    is_signed = any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")
    return is_signed and abs(case["now"] - int(times[0])) <= 300


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def ticket_is_valid(case):
    parts = case["token"].split(".")
    if len(parts) != 3:
        return False
    expected = mac(keys["tickets"], f"{parts[0]}.{parts[1]}".encode()).digest()
    if not hmac.compare_digest(expected, decode(parts[2])):
        return False
    header, claims = json.loads(decode(parts[0])), json.loads(decode(parts[1]))
    return (
        header == {"typ": "JWT", "alg": "HS256", "kid": "buddyline-ticket"}
        and claims["iss"] == vectors["site"]
        and claims["aud"] == "buddyline"
        and re.fullmatch("[1-9][0-9]*", claims["sub"]) is not None
        and claims["exp"] > case["now"]
        and claims == case["claims"]
    )


for kind, is_valid in (("signatures", signature_is_valid), ("tickets", ticket_is_valid)):
    wrong += [f"{kind}: {case['why']}" for case in vectors[kind] if is_valid(case) != case["valid"]]
count = len(keys) + len(vectors["signatures"]) + len(vectors["tickets"])
for name in wrong:
    print("FAILED:", name)
print(f"vectors: {count - len(wrong)} passed, {len(wrong)} failed")
sys.exit(bool(wrong))
