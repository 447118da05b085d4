# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about files on the controller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


def file_digest(path: str) -> str:
    """SHA-256 of a file's name and content, in hexadecimal."""
    file = Path(path)
    return hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).hexdigest()


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"file_digest": file_digest}
