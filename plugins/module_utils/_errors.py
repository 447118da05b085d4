# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one family of exceptions that the collection's modules raise.

Code below ``plugins/module_utils`` raises these; :func:`_runner.run` turns them into ``fail_json``
in one place.
"""

from __future__ import annotations

from typing import Any


class CitusHaError(Exception):
    """Something a person has to act on.

    ``message`` says what was tried, on which host and object, and what the server said;
    ``remedy`` says what to do next; ``details`` are returned by the failing module beside ``msg``.
    """

    def __init__(self, message: str, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConnectionFailed(CitusHaError):
    """No session could be opened, or it broke."""


class InvalidInput(CitusHaError):
    """The arguments contradict each other or the server; nothing was changed."""


class Refused(CitusHaError):
    """Carrying on would destroy or risk something nobody asked for by name; nothing was changed."""


class TimedOut(CitusHaError):
    """A wait ended; the message says what was still missing."""


class ServerError(CitusHaError):
    """The server rejected a statement or a request."""
