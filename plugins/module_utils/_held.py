# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pooler's half of planned work: its clients wait until the other half, on a server's node, has done it.

The halves need no word from each other. The other one sees in the server when the poolers have let go of it; a pooler
sees in Patroni's API, and behind its HAProxy, when the work is done.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import Refused, TimedOut
from ansible_collections.citus_ha.cluster.plugins.module_utils._pgbouncer import (
    Console,
    leads_steadily,
    where_it_leads,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._wait import wait_until

# The other half may begin a little later than a pooler's, and waits as long for transactions.
START_GRACE = 5

# Seconds that a member has to answer while clients wait.
LOOK_SECONDS = 2

# Seconds that a connection through HAProxy may take, to begin with, before another one is tried.
PROBE_SECONDS = 0.3

# Seconds that readers of standbys are held longer than everybody else.
READERS_SECONDS = 5

# Seconds that a busy HAProxy may take to lead to a server before the work is refused.
LOOK_AGAIN = 5


def held_argument_spec() -> dict[str, dict[str, Any]]:
    """Argument spec of the options documented in the doc fragment ``citus_ha.cluster.held``."""
    return {
        "socket_dir": {"type": "path"},
        "socket_port": {"type": "int", "default": 5432},
        "poolers": {"type": "list", "elements": "str", "default": []},
        "standbys": {"type": "list", "elements": "str", "default": []},
        "ssl_mode": {"type": "str", "choices": ["verify-full", "verify-ca"], "default": "verify-full"},
        "drain_timeout": {"type": "int", "default": 10},
        "start_at": {"type": "float"},
        "target_host": {"type": "str"},
        "target_port": {"type": "int"},
    }


class Target:
    """The port of HAProxy that the clients who are held go through."""

    def __init__(self, host: str, port: int, ca_cert: str) -> None:
        self._address = (host, port, ca_cert)

    def refuse_another(self, expected: str | None) -> None:
        """It must lead to that server before anything happens; ``expected`` None: to any.

        :raises Refused: it does not.
        """
        patience = time.monotonic() + LOOK_AGAIN
        while not (leads_to := where_it_leads(*self._address)) or expected not in (leads_to, None):
            if time.monotonic() > patience:
                raise Refused(
                    f"{self._address[0]}, port {self._address[1]}, leads to {leads_to or 'nobody'} instead of "
                    f"{f'the leader {expected}' if expected else 'a server'}. Nothing was changed.",
                    "Look at HAProxy beside this pooler.",
                )
            time.sleep(0.2)

    def servers(self, waited: float) -> frozenset[str]:
        """The servers that several connections in a row reach; empty while one of them reaches none.

        HAProxy keeps a connection while it knows no server, for a second each time: another one is quicker. On a
        machine that is too busy for that one has to be patient after all, the more so the longer clients have
        ``waited`` (seconds).
        """
        return leads_steadily(*self._address, timeout=max(PROBE_SECONDS, waited / 10))


def target_of(params: Mapping[str, Any]) -> Target | None:
    """That of a module's parameters, which may be without one."""
    return (
        Target(params["target_host"], params["target_port"], params["ca_cert"]) if params.get("target_port") else None
    )


class Work(ABC):
    """What clients are held for, as a pooler sees it."""

    still: str
    """What is so as long as nothing has happened, for a message: C(worker1-1 still leads)."""
    lacking: str
    """What clients waited for in vain, for a message: C(there was no new leader for worker1-1's clients)."""

    @abstractmethod
    def done(self, waited: float) -> bool:
        """Whether clients can go on, after so many seconds."""

    def settled(self) -> bool:
        """Whether readers of standbys can go on, too."""
        return True

    @abstractmethod
    def untouched(self) -> bool:
        """Whether nothing has happened yet. No answer says nothing."""


def hold(
    console: Console,
    work: Work,
    params: Mapping[str, Any],
    databases: Sequence[str] = (),
    readers: Sequence[str] = (),
) -> float:
    """Hold the clients of ``databases`` (none named: of all) until the work is done; the seconds that it took.

    Those of the databases ``readers`` before everybody else, and until it is settled, too.
    ``params``: C(drain_timeout), C(wait_timeout) and C(start_at) as the modules document them.

    :raises TimedOut: transactions did not end, the work did not begin, or it was not done in time. Clients go on.
    """
    console.log_in_again()
    held, readers = console.known(databases), console.known(readers)
    wait_until(params["start_at"])
    drain_timeout, limit = params["drain_timeout"], params["wait_timeout"]
    # Readers first: nobody else has to wait for their long statements.
    with console.paused(drain_timeout, drain_timeout + limit, readers) if readers else nullcontext():
        begun = time.monotonic()
        with console.paused(drain_timeout, limit, held, but=readers) if held or not databases else nullcontext():
            follow(work, begun, drain_timeout + START_GRACE, limit)
        done = time.monotonic()
        while readers and time.monotonic() < done + READERS_SECONDS and not work.settled():
            time.sleep(0.1)
    return round(done - begun, 3)


def follow(work: Work, begun: float, start_limit: float, limit: float) -> None:
    """Return when the work is done. It must begin within ``start_limit`` seconds and end within ``limit``.

    :raises TimedOut: it did not.
    """
    while (waited := time.monotonic() - begun) < limit:
        if work.done(waited):
            return
        if waited >= start_limit and work.untouched():
            raise TimedOut(
                f"{work.still}, {start_limit:g} seconds after clients were made to wait. They go on as before.",
                "The task on the server's node says why. Both must run at the same time: allow Ansible enough forks.",
            )
        time.sleep(0.05)
    raise TimedOut(
        f"{work.lacking} within {limit:g} seconds. They go on.",
        "Look at `patronictl list`, and at HAProxy beside this pooler.",
    )
