# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Breaks a cluster under load and checks that it keeps its promises: ``make chaos``.

    python tests/chaos/run.py --inventory inventories/docker --minutes 10 --seed 1 [--faults kill_postgres:worker,...]

Works on any cluster whose containers are on this machine's Docker engine. It writes into a schema and a table of its
own (``chaos``, ``chaos_probe``), which it drops at the end, and undoes every fault. The exit code is 1 when a promise
was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import checker
import faults
import psycopg2
import report
import writers
from actions import CannotHappen
from ledger import Entry, Kind, Ledger, Outcome
from nodes import Nodes
from probes import Probes

SETTLE = 5
"""Seconds of undisturbed writing after each fault, which still belong to it."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", type=Path, default=Path("inventories/docker"))
    parser.add_argument("--minutes", type=float, default=60, help="no fault begins after this time")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed, the same order and choices")
    parser.add_argument("--faults", default="all", help="names of --list with commas between, quick, or all")
    parser.add_argument("--each", type=int, default=0, help="end after so many tries of each fault")
    parser.add_argument("--rate", type=float, default=30, help="writes a second")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--patience", type=float, default=180, help="seconds the cluster has to mend itself")
    parser.add_argument("--output", type=Path, default=Path(".cache/chaos"), help="folder for ledger and report")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    return parser.parse_args()


def chosen(text: str) -> list[str]:
    """The faults of ``--faults``."""
    if text == "quick":
        return list(faults.QUICK)
    names = faults.every() if text == "all" else text.split(",")
    unknown = [name for name in names if name not in faults.every()]
    if unknown:
        sys.exit(f"No such fault: {', '.join(unknown)}. These are: {', '.join(faults.every())}.")
    return names


def break_it(nodes: Nodes, ledger: Ledger, options: argparse.Namespace, names: list[str]) -> list[faults.Happened]:
    """Fault after fault until the time is over. One from which the cluster does not recover is the last."""
    chance = random.Random(options.seed)
    happened: list[faults.Happened] = []
    begun = time.monotonic()
    for name in faults.order(names, chance, options.each):
        if time.monotonic() - begun > options.minutes * 60:
            break
        print(f"{time.strftime('%H:%M:%S')} {name} ... ", end="", flush=True)
        try:
            fault = faults.happen(
                nodes, name, chance, options.patience, lambda: checker.troubles(ledger.entries, time.time())
            )
        except CannotHappen as reason:
            print(f"left out: {reason}", flush=True)
            continue
        time.sleep(SETTLE)
        happened.append(fault)
        print(
            f"{', '.join(fault.nodes)}; well again after {fault.well - fault.ended:.0f} s {fault.problem}", flush=True
        )
        if fault.problem:
            break
    return happened


def judge(nodes: Nodes, ledger: Ledger, workload: writers.Workload, probes: Probes) -> list[str]:
    """Everything that was promised and is not so."""
    # In-doubt transactions are decided by Citus within its recovery interval.
    deadline = time.monotonic() + 60
    prepared: dict[str, int] = {"?": 1}
    while any(prepared.values()) and time.monotonic() < deadline:
        answers = writers.on_every_node(nodes.dsn, "SELECT count(*) FROM pg_prepared_xacts")
        prepared = {node: int(count) for node, count in answers.items()}
    stored = writers.stored(nodes.dsn)
    reads = [*workload.reads, checker.Read(time.time(), writers.total_of_accounts(writers.Client(nodes.dsn)))]
    copies = writers.on_every_node(
        nodes.dsn, "SELECT count(*) || ':' || coalesce(sum(hashint8(key)), 0) FROM chaos.reference"
    )
    return [
        *checker.lost(ledger.entries, stored),
        *checker.phantom(ledger.entries, stored),
        *checker.changed_totals(reads, writers.ACCOUNTS * writers.BALANCE),
        *checker.split_brain(probes.acks),
        *checker.lost_acks(probes.acks, probes.stored()),
        *checker.different_copies(copies),
        *checker.in_doubt(prepared),
    ]


def summary(entries: list[Entry], workload: writers.Workload, probes: Probes, seed: int) -> list[tuple[str, str]]:
    """Numbers of the whole run."""
    counts = {outcome: sum(entry.outcome is outcome for entry in entries) for outcome in Outcome}
    kinds = ", ".join(f"{sum(entry.kind is kind for entry in entries)} {kind}" for kind in Kind)
    seconds = max(entry.ended for entry in entries) - min(entry.begun for entry in entries)
    return [
        ("seed", str(seed)),
        ("duration", f"{seconds / 60:.1f} min"),
        ("writes tried", f"{len(entries)} ({kinds})"),
        (
            "acknowledged, refused, unknown",
            f"{counts[Outcome.OK]}, {counts[Outcome.FAILED]}, {counts[Outcome.UNKNOWN]}",
        ),
        ("reads of the total", str(len(workload.reads))),
        ("acknowledgements of single servers", str(len(probes.acks))),
    ]


def main() -> int:
    """Run, report, and leave the cluster as it was."""
    options = arguments()
    if options.list:
        print("\n".join(faults.every()))
        return 0
    names = chosen(options.faults)
    nodes = Nodes(options.inventory.resolve())
    lacking = nodes.wait_until_complete(30)
    if lacking:
        sys.exit(f"The cluster is not complete to begin with: {'; '.join(lacking)}.")
    options.output.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.output / "ledger.jsonl")
    workload = writers.Workload(
        nodes.dsn, ledger, writers.prepare(nodes.dsn), options.rate, options.clients, options.seed
    )
    probes = Probes(nodes)
    probes.start()
    workload.start()
    complaints: list[str] = []
    happened: list[faults.Happened] = []
    try:
        time.sleep(SETTLE)
        happened = break_it(nodes, ledger, options, names)
    finally:
        faults.undo_everything(nodes)
        complaints += [f"not well again by itself: {lack}" for lack in nodes.wait_until_complete(options.patience)]
        complaints += workload.stop()
        probes.stop()
        ledger.close()
    complaints += [f"{fault.name}: {fault.problem}" for fault in happened if fault.problem]
    try:
        complaints += judge(nodes, ledger, workload, probes)
    except (psycopg2.Error, LookupError) as error:
        complaints.append(f"the cluster could not be judged: {' '.join(str(error).split())}")
    entries = ledger.entries
    rows = [report.Row(fault, checker.window(entries, fault.begun, fault.well + SETTLE)) for fault in happened]
    (options.output / "chaos.svg").write_text(report.timeline(entries, happened), encoding="utf-8")
    text = report.page(rows, summary(entries, workload, probes, options.seed), complaints, "chaos.svg")
    (options.output / "chaos.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{options.output}/chaos.md, chaos.svg, ledger.jsonl")
    try:
        probes.remove()
        writers.ask(nodes.dsn, "DROP SCHEMA IF EXISTS chaos CASCADE")
    except (psycopg2.Error, LookupError) as error:
        print(f"The schema chaos is still there: {error}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
