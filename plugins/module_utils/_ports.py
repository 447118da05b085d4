# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of this machine that somebody listens on."""

from __future__ import annotations

import errno
import socket
from typing import Any

# Options of one wanted port, as the modules take it.
PORT_OPTIONS: dict[str, Any] = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "variable": {"type": "str", "required": True},
}


def is_here(address: str) -> bool:
    """Whether a process of this machine may listen there: the address is its own, or the kernel does not mind."""
    return _listening_fails(address, 0) != errno.EADDRNOTAVAIL


def is_taken(address: str, port: int) -> bool:
    """Whether listening there fails because somebody else does; see :func:`is_here` for what this machine lacks."""
    return _listening_fails(address, port) in (errno.EACCES, errno.EADDRINUSE)


def _listening_fails(address: str, port: int) -> int | None:
    """Why nobody can listen there, as an ``errno``; None when somebody can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of a program that has ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            return error.errno
    return None
