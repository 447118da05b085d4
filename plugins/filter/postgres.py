# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about PostgreSQL's settings and secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

MEGABYTE = 1024 * 1024


def postgres_memory(memory: int, max_connections: int) -> dict[str, str]:
    """PostgreSQL's memory parameters for a server that may use ``memory`` bytes.

    shared_buffers 25 %, effective_cache_size 75 %, work_mem a quarter of the memory shared by all
    connections, maintenance_work_mem 5 % and 1 GB at most; whole megabytes (work_mem: kilobytes).
    """

    def megabytes(share: float, least: int, most: int | None = None) -> str:
        value = max(int(memory * share) // MEGABYTE, least)
        return f"{min(value, most) if most else value}MB"

    return {
        "shared_buffers": megabytes(0.25, 16),
        "effective_cache_size": megabytes(0.75, 64),
        "maintenance_work_mem": megabytes(0.05, 16, 1024),
        "work_mem": f"{max(memory // max_connections // 4 // 1024, 1024)}kB",
    }


def scram_secret(password: str, role: str, iterations: int = 4096) -> str:
    """The SCRAM-SHA-256 secret of a password as PostgreSQL stores it (RFC 5803).

    The salt is derived from role and password, so that the same pair gives the same secret on every
    run and on every server: that makes it idempotent, and lets a pooler that knows the secret pass a
    client's login on to the server. ASCII passwords only, which SASLprep leaves as they are.
    """
    if not password.isascii() or not password.isprintable():
        raise ValueError(f"The password of role {role} must be printable ASCII.")
    salt = hmac.digest(password.encode(), b"citus_ha salt:" + role.encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return f"SCRAM-SHA-256${iterations}:{encoded(salt)}${encoded(stored_key)}:{encoded(server_key)}"


def scram_secrets(passwords: dict[str, str]) -> dict[str, str]:
    """``{role: password}`` as ``{role: SCRAM secret}``."""
    return {role: scram_secret(password, role) for role, password in passwords.items()}


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"postgres_memory": postgres_memory, "scram_secret": scram_secret, "scram_secrets": scram_secrets}
