# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What is looked at when a run is over."""

from __future__ import annotations

import time

import checker
import writers
from ledger import Entry, Kind, Ledger, Outcome
from nodes import Nodes
from probes import Probes


def gather(nodes: Nodes, ledger: Ledger, workload: writers.Workload, probes: Probes) -> checker.Evidence:
    """Look at everything that is to be judged.

    :raises Exception: somebody does not answer.
    """
    # Each leader decides those in doubt every ten seconds.
    deadline = time.monotonic() + 60
    prepared: dict[str, int] = {"?": 1}
    while any(prepared.values()) and time.monotonic() < deadline:
        answers = writers.on_every_node(nodes.dsn, "SELECT count(*) FROM pg_prepared_xacts")
        prepared = {node: int(count) for node, count in answers.items()}
    entries = ledger.entries
    last = checker.Read(time.time(), writers.total_of_accounts(writers.Client(nodes.dsn)))
    return checker.Evidence(
        seconds=duration(entries),
        groups=list(nodes.groups),
        entries=entries,
        stored=writers.stored(nodes.dsn),
        balances=writers.balances(nodes.dsn),
        transfers=writers.transfers(nodes.dsn),
        reads=[*workload.reads, last],
        acks=probes.acks,
        answers=probes.answers,
        probes=probes.stored(),
        copies=writers.on_every_node(
            nodes.dsn, "SELECT count(*) || ':' || coalesce(sum(hashint8(key)), 0) FROM chaos.reference"
        ),
        prepared=prepared,
    )


def duration(entries: list[Entry]) -> float:
    """Seconds from the first attempt to the end of the last."""
    return max(entry.ended for entry in entries) - min(entry.begun for entry in entries) if entries else 0.0


def summary(entries: list[Entry], workload: writers.Workload, probes: Probes, seed: int) -> list[tuple[str, str]]:
    """Numbers of the whole run."""
    counts = {outcome: sum(entry.outcome is outcome for entry in entries) for outcome in Outcome}
    kinds = ", ".join(f"{sum(entry.kind is kind for entry in entries)} {kind}" for kind in Kind)
    return [
        ("seed", str(seed)),
        ("duration", f"{duration(entries) / 60:.1f} min"),
        ("writes tried", f"{len(entries)} ({kinds})"),
        (
            "acknowledged, refused, unknown",
            f"{counts[Outcome.OK]}, {counts[Outcome.FAILED]}, {counts[Outcome.UNKNOWN]}",
        ),
        ("reads of the total, without an answer", f"{len(workload.reads)}, {workload.unread}"),
        ("acknowledgements of single servers", str(len(probes.acks))),
    ]
