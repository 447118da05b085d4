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
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni import Client
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_restart import not_back
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


def wait_for_members(look: Callable[[], T], missing: Callable[[T], list[str]], timeout: float, what: str) -> T:
    """As :func:`wait_for_answer`, for what members do by themselves: an answer that blames the request is final."""
    return wait_for_answer(
        look,
        missing,
        timeout,
        what,
        "Look at Patroni's log on the members named here, and at `patronictl list`; "
        "raise wait_timeout if they only need longer.",
        passes=lambda error: int(error.details.get("status", 0)) >= 500,
    )


def restart_member(
    api: Client, name: str, restart_timeout: int, wait_timeout: float, only_pending: bool = False
) -> None:
    """Restart the member with this API, and come back when it runs, or streams, again.

    :param restart_timeout: seconds to start in, before Patroni hands a leader's leadership over.
    :param wait_timeout: seconds to wait after that.
    :param only_pending: not when nobody waits for it any more.
    """
    begun = "" if only_pending else api.status().get("postmaster_start_time", "")
    try:
        api.restart(restart_timeout, only_pending)
    except ServerError as error:
        # 503 also says "still starting", and "no longer needed" when somebody else was quicker.
        if error.details.get("status") != 503:
            raise
    wait_for_members(
        api.status, lambda status: not_back(status, begun), wait_timeout, f"Waiting for member {name} after its restart"
    )


def wait_for_replay(client: Client, leader: Client, timeout: float) -> None:
    """Come back when the standbys have replayed what their leader wrote when it started.

    Its limits are part of that. A standby that starts again before it has read them starts with the old ones.

    :param client: the API of any member.
    :param timeout: seconds.
    """
    written = int((leader.status().get("xlog") or {}).get("location") or 0)
    standbys = [member for member in client.cluster().standbys if member.api_url and member.is_running]
    apis = {member.name: client.at(member.api_url) for member in standbys}
    wait_for_members(
        lambda: {name: (api.status().get("xlog") or {}).get("replayed_location") or 0 for name, api in apis.items()},
        lambda seen: [
            f"member {name} has not replayed what the leader wrote when it started"
            for name, replayed in seen.items()
            if int(replayed) < written
        ],
        timeout,
        f"Waiting for the standbys of the group behind {client.url}",
    )
