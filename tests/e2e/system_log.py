# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What programs on this machine write into the system's log."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_LOG = Path("/dev/log")
"""The socket to which programs write for the system's log, syslog(3)."""


@dataclass
class Heard:
    """What the system's log was told, line by line, or why that cannot be read here."""

    lines: list[str] = field(default_factory=list)
    unreadable: str = ""


@contextmanager
def system_log() -> Iterator[Heard]:
    """What programs on this machine write into the system's log meanwhile; complete at the end."""
    heard = Heard()
    if SYSTEM_LOG.exists():
        begun = time.time()
        yield heard
        argv = ["journalctl", "--no-pager", "--output=cat", f"--since=@{begun:.0f}"]
        try:
            heard.lines.append(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)
        except (OSError, subprocess.CalledProcessError) as error:
            heard.unreadable = f"this machine's log is no journal that can be read: {error}"
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(SYSTEM_LOG))
        listening.settimeout(0.5)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    heard.lines.append(listening.recv(2**20).decode(errors="replace"))

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield heard
        finally:
            over.set()
            listener.join()
            SYSTEM_LOG.unlink()
