# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what Patroni's REST API tells, while members restart or change their leader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    ServerError,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_for

T = TypeVar("T")


def wait_for_answer(
    look: Callable[[], T],
    missing: Callable[[T], list[str]],
    timeout: float,
    what: str,
    remedy: str,
    passes: Callable[[ServerError], bool] = lambda error: True,
) -> T:
    """As :func:`wait_for`; an API that gives no answer, or an error, is one more thing that is missing.

    :param passes: whether an error may pass by itself; one that does not is raised at once.
    """

    def patient() -> T | CitusHaError:
        try:
            return look()
        except ConnectionFailed as error:
            return error
        except ServerError as error:
            if not passes(error):
                raise
            return error

    def lacking(seen: T | CitusHaError) -> list[str]:
        return [seen.message.rstrip(".")] if isinstance(seen, CitusHaError) else missing(seen)

    answer: Any = wait_for(patient, lacking, timeout, what, remedy)
    return answer
