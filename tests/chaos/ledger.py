# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What the writers were told, kept outside the cluster: one line of JSON for each attempt."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What a client knows about its write."""

    OK = "ok"
    """Acknowledged: it must be there for ever."""
    FAILED = "failed"
    """Refused: it must never be there."""
    UNKNOWN = "unknown"
    """The connection broke, or the wait for the standby was cancelled: both are right."""


class Kind(StrEnum):
    """What was written."""

    WRITE = "write"
    """A unique key into one shard of a distributed table."""
    TRANSFER = "transfer"
    """Money from one account to another, mostly on two groups (two-phase commit), and a unique key for it."""
    REFERENCE = "reference"
    """A unique key into a reference table, which is on every node."""


@dataclass(frozen=True)
class Entry:
    """One attempt. ``planned`` is when it was due, ``begun`` when it was sent, ``ended`` when its outcome was known.

    Times are seconds since the epoch. ``group`` is the Citus group of the shard, -1 where several take part.
    """

    kind: Kind
    key: int
    group: int
    planned: float
    begun: float
    ended: float
    outcome: Outcome
    error: str = ""


class Ledger:
    """Collects entries from many threads, each on disk before the next one of its thread begins."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._streams: set[tuple[Kind, int]] = set()
        self._next_key = 0

    def new_key(self) -> int:
        """A key that nobody has had yet, whatever became of its write."""
        with self._lock:
            self._next_key += 1
            return self._next_key

    def record(self, entry: Entry) -> None:
        """Note an attempt."""
        line = json.dumps(asdict(entry))
        with self._lock:
            self._entries.append(entry)
            self._streams.add((entry.kind, entry.group))
            self._file.write(line + "\n")
            self._file.flush()

    @property
    def entries(self) -> list[Entry]:
        """All so far."""
        with self._lock:
            return list(self._entries)

    def latest(self, count: int) -> list[Entry]:
        """The last ones: what is asked every second does not look through hours of them."""
        with self._lock:
            return self._entries[-count:]

    @property
    def streams(self) -> set[tuple[Kind, int]]:
        """Kinds and groups that were ever written to."""
        with self._lock:
            return set(self._streams)

    def close(self) -> None:
        """No more entries."""
        self._file.close()


def read(path: Path) -> Iterator[Entry]:
    """The entries of a ledger's file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        yield Entry(**{**values, "kind": Kind(values["kind"]), "outcome": Outcome(values["outcome"])})
