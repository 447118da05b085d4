# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Breaks a cluster under load and checks that it keeps its promises: ``make chaos``.

    python tests/chaos/run.py --inventory inventories/docker --minutes 10 --seed 1 [--faults kill_postgres:worker,...]

Works on any cluster: containers of this machine or of others over SSH, and units on machines over SSH. It writes into a
schema and a table of its own (``chaos``, ``chaos_probe``), which it drops at the end, and undoes every fault. The exit
code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import checker
import description
import evidence
import faults
import psycopg2
import report
import writers
from course import SETTLE, Course, break_it, complaints_of
from errors import DidNotHappen, Unreachable
from ledger import Ledger
from nodes import Nodes
from probes import Probes
from reach import reach


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


def main() -> int:
    """Run, report, and leave the cluster as it was."""
    options = arguments()
    if options.list:
        print("\n".join(faults.every()))
        return 0
    # A program that is started in the background ignores Ctrl-C, and SIGTERM would leave everything broken.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    names = chosen(options.faults)
    with tempfile.TemporaryDirectory(prefix="citus_ha.") as sockets:
        try:
            nodes = reached(options.inventory.resolve(), Path(sockets))
        except Unreachable as reason:
            sys.exit(f"These machines cannot be used, and nothing was changed:\n{reason}")
        return attack(nodes, options, names)


def reached(inventory: Path, sockets: Path) -> Nodes:
    """The nodes of an inventory, and a way to each machine."""
    described = description.describe(inventory)
    machines = reach(description.needs(described), description.logins(described), sockets)
    return Nodes(inventory, described, description.hosts(described, machines))


def attack(nodes: Nodes, options: argparse.Namespace, names: list[str]) -> int:
    """Do all of it on a cluster that is complete, and leave no table there."""
    lacking = nodes.wait_until_complete(30)
    if lacking:
        sys.exit(f"The cluster is not complete to begin with: {'; '.join(lacking)}.")
    options.output.mkdir(parents=True, exist_ok=True)
    probes = Probes(nodes)
    try:
        return perform(nodes, options, names, probes)
    finally:
        clean_up(nodes, probes)


def perform(nodes: Nodes, options: argparse.Namespace, names: list[str], probes: Probes) -> int:
    """Write, break, undo, judge and report; 1 when there is something to complain of."""
    ledger = Ledger(options.output / "ledger.jsonl")
    workload = writers.Workload(
        nodes.dsn, ledger, writers.prepare(nodes.dsn), options.rate, options.clients, options.seed
    )
    probes.start()
    workload.start()
    course = Course()
    try:
        time.sleep(SETTLE)
        break_it(nodes, ledger, options, names, course)
    except (Exception, KeyboardInterrupt) as error:  # what is known so far is judged and told all the same
        course.broken_off = repr(error)
    complaints = [f"not undone: {left}" for left in faults.undo_everything(nodes)]
    complaints += [f"not well again by itself: {lack}" for lack in nodes.wait_until_complete(options.patience)]
    complaints += workload.stop()
    probes.stop()
    ledger.close()
    complaints += judge(nodes, ledger, workload, probes)
    rows = [
        report.Row(fault, checker.window(ledger.entries, fault.begun, fault.well + SETTLE)) for fault in course.happened
    ]
    complaints += complaints_of(course, rows, named=options.faults != "all")
    told = evidence.summary(ledger.entries, workload, probes, options.seed)
    text = report.page(rows, told, complaints, course.left_out, "chaos.svg")
    (options.output / "chaos.md").write_text(text, encoding="utf-8")
    (options.output / "chaos.svg").write_text(report.timeline(ledger.entries, course.happened), encoding="utf-8")
    print(f"\n{text}\n{options.output}/chaos.md, chaos.svg, ledger.jsonl")
    return 1 if complaints else 0


def judge(nodes: Nodes, ledger: Ledger, workload: writers.Workload, probes: Probes) -> list[str]:
    """What the database says against what the clients were told."""
    try:
        seen = evidence.gather(nodes, ledger, workload, probes)
    except Exception as error:
        return [f"the cluster could not be judged: {' '.join(str(error).split())}"]
    return checker.verdict(seen, accounts=writers.ACCOUNTS, balance=writers.BALANCE)


def clean_up(nodes: Nodes, probes: Probes) -> None:
    """Leave no table behind."""
    try:
        probes.remove()
        writers.ask(nodes.dsn, "DROP SCHEMA IF EXISTS chaos CASCADE")
    except (psycopg2.Error, LookupError, DidNotHappen) as error:
        print(f"The schema chaos or a table chaos_probe is still there: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
