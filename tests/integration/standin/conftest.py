# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Lets the tests of this folder import the helpers of the folder above by plain name."""

from __future__ import annotations

import sys
from pathlib import Path

ABOVE = str(Path(__file__).resolve().parent.parent)

if ABOVE not in sys.path:
    sys.path.insert(0, ABOVE)
