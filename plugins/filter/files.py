# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about files on the controller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Group of everybody who runs a process of the node: they all need the node's certificate.
SHARED_GROUP = "citus_ha"
SHARED_FOLDER = "/etc/citus_ha/tls/"


def file_digest(path: str) -> str:
    """SHA-256 of a file's name and content, in hexadecimal."""
    file = Path(path)
    return hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).hexdigest()


def machine_file(file: dict[str, Any]) -> dict[str, Any]:
    """A container's file as a file of a machine: root owns it, and the group may read what its owner may.

    So a process cannot write its own configuration, and two processes of different users share the certificate.
    PostgreSQL and libpq accept a key of root that a group can read,
    https://www.postgresql.org/docs/current/ssl-tcp.html#SSL-SERVER-FILES
    """
    mode = int(file.get("mode", "0640"), 8)
    shared = {"group": SHARED_GROUP} if file["path"].startswith(SHARED_FOLDER) else {}
    return {**file, **shared, "mode": f"{mode | (mode & 0o500) >> 3:04o}"}


def masked_unit(name: str) -> dict[str, str]:
    """The empty file that masks a systemd unit, systemd.unit(5)."""
    return {"path": f"/etc/systemd/system/{name}.service", "content": "", "mode": "0644"}


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"file_digest": file_digest, "machine_file": machine_file, "masked_unit": masked_unit}
