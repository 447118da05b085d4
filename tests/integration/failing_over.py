# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A failover as HAProxy and a pooler behind it see it; runs in a container, with nothing but Python and HAProxy.

    python3 failing_over.py CONFIGURATION SECONDS

Two servers: ``a`` leads and dies, ``b`` takes over after SECONDS; both have somebody beside them who says who leads, as
Patroni does. A pooler connects again and again, and others come when HAProxy may know no leader. It prints how each
connection went: ``[[seconds after the death, seconds that it took, what answered], ...]``.
"""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

POSTGRES = {"a": 5432, "b": 5433}
PATRONI = {"a": 8008, "b": 8009}
HAPROXY = 5000
PATIENCE = 5.0
TAKE_OVER = 0.3
"""Seconds from when the leader's death was noticed until the next one leads."""
LATE = (0.2, 0.25, TAKE_OVER)
"""When others come, in seconds after the death was noticed."""
FILE = Path("/tmp/haproxy.cfg")

roles = {"a": "primary", "b": "replica"}


def say_who_leads(name: str) -> None:
    """Patroni's answer to ``GET /primary``."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'{{"role": "{roles[name]}"}}'.encode()
            self.send_response(200 if roles[name] == "primary" else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", PATRONI[name]), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve(name: str) -> socket.socket:
    """A server that says its name to whoever says something; it dies with the socket."""
    listener = socket.create_server(("127.0.0.1", POSTGRES[name]))

    def answer(client: socket.socket) -> None:
        # HAProxy goes on for a client that has lost its patience.
        with client, suppress(OSError):
            if client.recv(8):
                client.sendall(name.encode())

    def accept() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=answer, args=[client], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def ask() -> str:
    """Who answers behind HAProxy, or why nobody did."""
    try:
        with socket.create_connection(("127.0.0.1", HAPROXY), timeout=PATIENCE) as connection:
            connection.sendall(b"question")
            return connection.recv(1).decode() or "hung up"
    except TimeoutError:
        return "nothing"
    except OSError as error:
        return str(error)


def take_over(after: float) -> None:
    time.sleep(after)
    roles["a"] = "demoted"
    # Not at once, as another must see that the lease is free, and PostgreSQL leave recovery.
    time.sleep(TAKE_OVER)
    roles["b"] = "primary"


def main() -> None:
    after = float(sys.argv[2])
    FILE.write_text(sys.argv[1])
    leader, _standby = map(serve, POSTGRES)
    for name in PATRONI:
        say_who_leads(name)
    command = ["haproxy", "-db", "-f", str(FILE)]
    haproxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 30
        while ask() != "a" and time.monotonic() < give_up:
            time.sleep(0.1)
        # Until it has looked at both.
        time.sleep(3)
        leader.shutdown(socket.SHUT_RDWR)
        leader.close()
        died = time.monotonic()
        threading.Thread(target=take_over, args=[after], daemon=True).start()

        seen: list[tuple[float, float, str]] = []

        def come() -> None:
            begun = time.monotonic()
            answer = ask()
            seen.append((round(begun - died, 3), round(time.monotonic() - begun, 3), answer))

        late = [threading.Timer(after + moment, come) for moment in LATE]
        for client in late:
            client.start()
        while time.monotonic() < died + 5:
            come()
            time.sleep(0.1)
        for client in late:
            client.join()
        print(json.dumps(seen))
    finally:
        haproxy.terminate()


if __name__ == "__main__":
    main()
