#!/usr/bin/python3
# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Gives the lease of a dead server up, so that another leads at once and not when the lease has run out.

    keep_lease.py /etc/citus_ha/postgres

Runs beside the server, on the same machine. Patroni and PostgreSQL hold a shared lock on their folder of configuration
(``flock`` in their commands), which each of their processes inherits. The kernel ends it with the last of them: this
program gets its lock when the server is dead, and only then. One that is stopped, frozen or cut off from the network
keeps the lock, and its lease for as long as the registry lets it.

The lease is that of the dead Patroni. One that has started since has another.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

LOOK = 0.2
"""Seconds between two looks whether a dead server has been started again."""


def give_up(folder: str) -> str:
    """Revoke the lease of a leader, and say so; nothing for a member that does not lead, or in maintenance.

    :raises Exception: the registry was not reached.
    """
    # Not above: nobody needs it until a server dies.
    from patroni.config import Config
    from patroni.dcs import get_dcs

    settings = Config(folder).copy() | {"patronictl": True}
    registry = get_dcs(settings)
    cluster = registry.get_cluster()
    if cluster.leader is None or cluster.leader.name != settings["name"]:
        return "it did not lead"
    if cluster.config is not None and cluster.config.data.get("pause"):
        return "it led, and leads on, as the group is in maintenance"
    # What Patroni gives up by itself when it ends in an orderly way: its word that it leads, and that it is there.
    registry._client.call_rpc("/lease/revoke", {"ID": cluster.leader.session})
    return f"gave up its lease {cluster.leader.session}"


def wait_until_alive(lock: int) -> None:
    """Return when a process of the server has the lock."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(LOOK)


def main() -> None:
    """Wait for the server's death, again and again."""
    folder = sys.argv[1]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    lock = os.open(folder, os.O_RDONLY)
    wait_until_alive(lock)
    while True:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answered = True
        try:
            said = give_up(folder)
        except Exception as error:
            answered, said = False, f"the registry does not answer: {error}"
        finally:
            # The server needs it to start again.
            fcntl.flock(lock, fcntl.LOCK_UN)
        print(f"the server is dead; {said}", flush=True)
        if answered:
            wait_until_alive(lock)
        else:
            time.sleep(1)


if __name__ == "__main__":
    main()
