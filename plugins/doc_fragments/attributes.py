# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules promise, said once."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes of modules that change something; :attr:`INFO` for those that only look."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what would change without changing it.
    support: full
  diff_mode:
    description: Returns what changed, or in check mode would change, when in diff mode.
    support: full
  idempotent:
    description: Run again with nothing changed in between, it changes nothing.
    support: full
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode). This module changes nothing.
    support: full
  diff_mode:
    description: There is nothing to differ.
    support: N/A
"""
