# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What may be in the way of a fault."""


class CannotHappen(Exception):
    """The machine or the cluster lacks what a fault needs; nothing was done."""


class DidNotHappen(Exception):
    """A fault was to happen and did not: this program is wrong, and what it says of the cluster worth nothing."""


class Unreachable(Exception):
    """A machine on which nothing can be done: no login, no right to become root, or a program is missing."""
