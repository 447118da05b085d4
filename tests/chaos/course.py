# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""One fault after the other, and what was promised of each."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field

import checker
import faults
from errors import CannotHappen
from ledger import Ledger
from nodes import Nodes
from report import Row

SETTLE = 5
"""Seconds of undisturbed writing after each fault, which still belong to it."""


@dataclass
class Course:
    """What happened, and of each fault that did not happen why; ``broken_off`` says why the program ended early."""

    happened: list[faults.Happened] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    broken_off: str = ""


def break_it(nodes: Nodes, ledger: Ledger, options: argparse.Namespace, names: list[str], course: Course) -> None:
    """Fault after fault until the time is over. One from which the cluster does not recover is the last."""
    chance = random.Random(options.seed)
    begun = time.monotonic()
    for name in faults.order(names, chance, options.each):
        if time.monotonic() - begun > options.minutes * 60:
            break
        print(f"{time.strftime('%H:%M:%S')} {name} ... ", end="", flush=True)
        try:
            fault = faults.happen(
                nodes,
                name,
                chance,
                options.patience,
                lambda: checker.troubles(ledger.streams, ledger.latest(2000), time.time()),
            )
        except CannotHappen as reason:
            print(f"left out: {reason}", flush=True)
            course.left_out[name] = str(reason)
            if len(course.left_out) == len(set(names)):
                break
            continue
        time.sleep(SETTLE)
        course.happened.append(fault)
        print(
            f"{', '.join(fault.nodes)}; well again after {fault.well - fault.ended:.0f} s {fault.problem}", flush=True
        )
        if fault.problem:
            break
    tried = {fault.name for fault in course.happened}
    for name in dict.fromkeys(names):
        if name not in tried:
            course.left_out.setdefault(name, "the run was over before its turn")


def complaints_of(course: Course, rows: list[Row], named: bool) -> list[str]:
    """What was promised of single faults and is not so. ``named``: each of them was asked for by its name."""
    complaints = [f"{row.fault.name}: {row.fault.problem}" for row in rows if row.fault.problem]
    for row in rows:
        complaints += checker.noticed(row.fault.name, row.window, faults.promised(row.fault.name))
    if course.broken_off:
        complaints.append(f"the program was broken off: {course.broken_off}")
    if not rows:
        complaints.append("nothing happened: nothing was tried")
    if named:
        complaints += [f"{name} was left out: {reason}" for name, reason in course.left_out.items()]
    return complaints
