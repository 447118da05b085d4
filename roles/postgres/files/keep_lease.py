# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Gives the lease of a dead server up, so that another leads at once and not when the lease has run out.

    keep_lease.py /etc/citus_ha/postgres TTL

Runs beside the server, on the same machine. Patroni and PostgreSQL each hold a shared lock on their folder of
configuration (``flock`` in their commands), and so do the processes that they fork. The kernel ends it with the last of
them: this program gets its lock when the server is dead, and only then. One that is stopped, frozen or cut off from the
network keeps the lock, and its lease for as long as the DCS lets it.

While the lease is given up the server cannot start again. That takes a moment, and :data:`PATIENCE` at most.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

LOOK = 0.2
"""Seconds between two looks whether the server is alive."""
PATIENCE = 10
"""Seconds that one attempt to reach the DCS may take."""
NOW = "now"


def give_up(folder: str) -> str:
    """Revoke the lease of a leader, and say so; nothing for a member that does not lead, or in maintenance.

    :raises Exception: the DCS was not reached. It may also wait for it for ever.
    """
    from patroni.config import Config
    from patroni.dcs import get_dcs

    settings = Config(folder).copy() | {"patronictl": True}
    dcs = get_dcs(settings)
    cluster = dcs.get_cluster()
    if cluster.leader is None or cluster.leader.name != settings["name"]:
        return "it did not lead"
    if cluster.config is not None and cluster.config.data.get("pause"):
        return "it led, and leads on, as the group is in maintenance"
    # What Patroni gives up by itself when it ends in an orderly way: its word that it leads, and that it is there.
    dcs._client.call_rpc("/lease/revoke", {"ID": cluster.leader.session})
    return f"gave up its lease {cluster.leader.session}"


def attempt(folder: str) -> bool:
    """Give the lease up in a process of its own, which can be ended whatever Patroni's library waits for."""
    try:
        return subprocess.run([sys.executable, __file__, folder, NOW], check=False, timeout=PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        say(f"the DCS did not answer within {PATIENCE} seconds")
        return False


def wait_until_alive(folder: str) -> int:
    """Return when a process of the server has the lock; the descriptor to wait for its end with."""
    while True:
        try:
            # Anew each time: the folder may have been replaced by another.
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            time.sleep(LOOK)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock
        os.close(lock)
        time.sleep(LOOK)


def bury(lock: int, folder: str, ttl: float) -> None:
    """Try for as long as a dead server can have a lease, or until it has been started again."""
    end = time.monotonic() + ttl
    while time.monotonic() < end:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            if attempt(folder):
                return
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(1)
    say(f"its lease has run out after {ttl:g} seconds")


def same(lock: int, folder: str) -> bool:
    """Whether the folder is still the one that the lock is on; a server may have started with another lock else."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder))
    except FileNotFoundError:
        return False


def say(words: str) -> None:
    """One line for the log."""
    print(f"the server is dead; {words}", flush=True)


def main() -> None:
    """Wait for the server's death, again and again."""
    folder, ttl = sys.argv[1:]
    if ttl == NOW:
        say(give_up(folder))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        lock = wait_until_alive(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if same(lock, folder):
                bury(lock, folder, float(ttl))
        finally:
            os.close(lock)


if __name__ == "__main__":
    main()
