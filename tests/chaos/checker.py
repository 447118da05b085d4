# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Whether the database agrees with what the clients were told. Pure functions; they complain in sentences."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from ledger import Entry, Kind, Outcome


@dataclass(frozen=True)
class Read:
    """The sum of all accounts, seen in one transaction at ``at``."""

    at: float
    total: int


@dataclass(frozen=True)
class Ack:
    """A write that one server acknowledged itself, past pooler and coordinator, and the timeline it was on."""

    group: str
    node: str
    timeline: int
    key: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Transfer:
    """Money that went from one account to another."""

    key: int
    source: int
    target: int
    amount: int


@dataclass(frozen=True)
class Evidence:
    """All that is known when a run is over.

    ``seconds`` is how long it took and ``groups`` are those of the cluster. ``stored``, ``balances`` and ``transfers``
    are what clients find there in the end, ``probes`` the keys of the probes by group and ``answers`` how many each
    server answered, a standby by a refusal; ``copies`` (of the reference table) and ``prepared`` (transactions) come
    from the primary of each group.
    """

    seconds: float
    groups: Sequence[str]
    entries: Sequence[Entry]
    stored: Mapping[Kind, Sequence[int]]
    balances: Mapping[int, int]
    transfers: Sequence[Transfer]
    reads: Sequence[Read]
    acks: Sequence[Ack]
    answers: Mapping[str, int]
    probes: Mapping[str, Sequence[int]]
    copies: Mapping[str, str]
    prepared: Mapping[str, int]


LEAST_ACKS = 0.2
"""Probes that each group must have acknowledged in a second, on average, to prove something about two leaders."""
LEAST_ANSWERS = 0.2
"""Probes that each server must have answered in a second: one that nobody asks may lead as it likes."""
LEAST_READS = 0.05
"""Reads of the total in a second."""


def verdict(seen: Evidence, accounts: int, balance: int) -> list[str]:
    """Everything that was promised and is not so; and what was to be seen and was not.

    :param accounts: how many accounts there are; :param balance: what each had to begin with.
    """
    return [
        *lost(seen.entries, seen.stored),
        *phantom(seen.entries, seen.stored),
        *changed_totals(seen.reads, accounts * balance),
        *wrong_balances(seen.balances, seen.transfers, balance),
        *split_brain(seen.acks),
        *lost_acks(seen.acks, seen.probes),
        *different_copies(seen.copies),
        *in_doubt(seen.prepared),
        *too_little(seen),
    ]


def too_little(seen: Evidence) -> list[str]:
    """Evidence that is missing: nobody is innocent because nobody looked."""
    acks = Counter(ack.group for ack in seen.acks)
    complaints = [
        f"evidence: {group} acknowledged {acks[group]} probes in {seen.seconds:.0f} s: two leaders may have been missed"
        for group in seen.groups
        if acks[group] < LEAST_ACKS * seen.seconds
    ]
    complaints += [
        f"evidence: {server} answered {count} probes in {seen.seconds:.0f} s: it may have led unseen"
        for server, count in seen.answers.items()
        if count < LEAST_ANSWERS * seen.seconds
    ]
    if len(seen.reads) < LEAST_READS * seen.seconds:
        complaints.append(f"evidence: only {len(seen.reads)} reads of the total in {seen.seconds:.0f} s")
    complaints += [
        f"evidence: {what} of {len(answers)} primaries only, of {len(seen.groups)}"
        for what, answers in (("copies of the reference table", seen.copies), ("transactions in doubt", seen.prepared))
        if len(answers) != len(seen.groups)
    ]
    return complaints


def lost(entries: Iterable[Entry], stored: Mapping[Kind, Iterable[int]]) -> list[str]:
    """Writes that were acknowledged and are not there."""
    present = {kind: set(keys) for kind, keys in stored.items()}
    return [
        f"lost: the {entry.kind} {entry.key} was acknowledged at {entry.ended:.3f} and is not there"
        for entry in entries
        if entry.outcome is Outcome.OK and entry.key not in present.get(entry.kind, set())
    ]


def phantom(entries: Iterable[Entry], stored: Mapping[Kind, Iterable[int]]) -> list[str]:
    """Writes that are there although they were refused, never sent, or are there twice."""
    outcomes = {(entry.kind, entry.key): entry.outcome for entry in entries}
    complaints = []
    for kind, keys in stored.items():
        for key, times in Counter(keys).items():
            outcome = outcomes.get((kind, key))
            if outcome is None:
                complaints.append(f"phantom: the {kind} {key} is there and nobody sent it")
            elif outcome is Outcome.FAILED:
                complaints.append(f"phantom: the {kind} {key} is there although it was refused")
            if times > 1:
                complaints.append(f"phantom: the {kind} {key} is there {times} times")
    return complaints


def changed_totals(reads: Iterable[Read], total: int) -> list[str]:
    """Reads that saw half a transfer."""
    return [
        f"total: {read.total} instead of {total} at {read.at:.3f}: half a transfer was visible"
        for read in reads
        if read.total != total
    ]


def wrong_balances(balances: Mapping[int, int], transfers: Iterable[Transfer], balance: int) -> list[str]:
    """Accounts that have something else than their transfers say."""
    expected = dict.fromkeys(balances, balance)
    for transfer in transfers:
        for account, change in ((transfer.source, -transfer.amount), (transfer.target, transfer.amount)):
            expected[account] = expected.get(account, balance) + change
    return [
        f"account {account}: {balances.get(account)} instead of {wanted}: half a transfer is there"
        for account, wanted in expected.items()
        if balances.get(account) != wanted
    ]


def split_brain(acks: Sequence[Ack]) -> list[str]:
    """Two servers of one group that both acknowledged writes in the same period.

    Leadership may go from one server to another, each time on a higher timeline. What must not be is a write that began
    on an older timeline after one on a newer timeline was acknowledged, or two servers on the same timeline.
    """
    complaints = []
    owner: dict[tuple[str, int], str] = {}
    newest: dict[str, Ack] = {}
    for ack in sorted(acks, key=lambda ack: ack.ended):
        first = owner.setdefault((ack.group, ack.timeline), ack.node)
        if first != ack.node:
            complaints.append(f"split brain: {first} and {ack.node} both acknowledged on timeline {ack.timeline}")
        latest = newest.get(ack.group)
        if latest is None or ack.timeline >= latest.timeline:
            # The earliest one of the newest timeline is the strictest.
            if latest is None or ack.timeline > latest.timeline:
                newest[ack.group] = ack
        elif ack.begun > latest.ended:
            complaints.append(
                f"split brain: {ack.node} acknowledged on timeline {ack.timeline} at {ack.ended:.3f}, "
                f"{ack.ended - latest.ended:.3f} s after {latest.node} did on timeline {latest.timeline}"
            )
    return complaints


def lost_acks(acks: Iterable[Ack], stored: Mapping[str, Iterable[int]]) -> list[str]:
    """Writes that a server acknowledged itself and that its group has not."""
    present = {group: set(keys) for group, keys in stored.items()}
    return [
        f"lost: {ack.node} acknowledged the probe {ack.key} at {ack.ended:.3f} and {ack.group} does not have it"
        for ack in acks
        if ack.key not in present.get(ack.group, set())
    ]


def different_copies(copies: Mapping[str, str]) -> list[str]:
    """Nodes whose copy of the reference table is not the others'."""
    return [] if len(set(copies.values())) <= 1 else [f"reference table: the copies differ: {dict(copies)}"]


def in_doubt(prepared: Mapping[str, int]) -> list[str]:
    """Nodes with two-phase transactions that nobody has decided."""
    return [f"in doubt: {count} prepared transactions on {node}" for node, count in prepared.items() if count]


@dataclass(frozen=True)
class Window:
    """What clients noticed of one fault.

    ``longest`` is the longest time without an acknowledgement. ``outage`` goes from the last acknowledgement before
    the first trouble to the first after it that was sustained: followed by no trouble for three seconds; 0 without any.
    ``errors`` are the attempts that were not acknowledged.
    """

    longest: float
    outage: float
    errors: int


@dataclass(frozen=True)
class Promise:
    """What clients may notice: writes stand still for ``longest`` seconds, and fail where ``errors`` says so."""

    longest: float
    errors: bool


def noticed(name: str, window: Window, promise: Promise) -> list[str]:
    """What clients noticed of something, and must not."""
    complaints = []
    if window.errors and not promise.errors:
        complaints.append(f"{name}: {window.errors} writes failed, and none may")
    if window.longest > promise.longest:
        complaints.append(
            f"{name}: writes stood still for {window.longest:.1f} s, and {promise.longest:g} are the most"
        )
    return complaints


def troubles(streams: Set[tuple[Kind, int]], latest: Iterable[Entry], now: float, seconds: float = 3.0) -> list[str]:
    """Streams that are not steady at the moment: without an acknowledgement, or with an error, in the last seconds."""
    recent = [entry for entry in latest if entry.ended > now - seconds]
    bad = {(entry.kind, entry.group) for entry in recent if entry.outcome is not Outcome.OK}
    good = {(entry.kind, entry.group) for entry in recent if entry.outcome is Outcome.OK}
    return [f"{kind}s of group {group} are not steady" for kind, group in sorted(bad | (streams - good))]


def window(
    entries: Iterable[Entry], begun: float, until: float, trouble: float = 1.0, sustained: float = 3.0
) -> Window:
    """The window of a fault that began at ``begun`` and was over, with everybody well again, at ``until``.

    Each stream of writes is looked at by itself, for a group that stands still hides behind one that goes on, and the
    worst counts. A time without acknowledgements longer than ``trouble`` seconds is trouble, and so is an error. One
    that had not become trouble by ``until`` is the next fault's. Troubles with less than ``sustained`` seconds between
    them are one outage.
    """
    streams: dict[tuple[Kind, int], list[Entry]] = {}
    for entry in entries:
        if begun - 10 <= entry.ended <= until + 10:
            streams.setdefault((entry.kind, entry.group), []).append(entry)
    longest, outage, errors = 0.0, 0.0, 0
    for stream in streams.values():
        acks = sorted(entry.ended for entry in stream if entry.outcome is Outcome.OK)
        bad = [entry.ended for entry in stream if entry.outcome is not Outcome.OK and begun <= entry.ended <= until]
        errors += len(bad)
        # Where nothing is acknowledged any more the last silence lasts as long as somebody looks.
        ends = [*acks, max(until, max(entry.ended for entry in stream))]
        gaps = [(a, b) for a, b in itertools.pairwise(ends) if b > begun and a < until - trouble]
        longest = max([longest, *(b - a for a, b in gaps)])
        spans = [(a, b) for a, b in gaps if b - a > trouble]
        spans += [
            (max((a for a in ends if a <= at), default=at), min((a for a in ends if a >= at), default=until))
            for at in bad
        ]
        outage = max([outage, *(end - start for start, end in _merged(spans, sustained))])
    return Window(longest, outage, errors)


def _merged(spans: Iterable[tuple[float, float]], apart: float) -> list[tuple[float, float]]:
    """Spans with less than ``apart`` between them as one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start - merged[-1][1] < apart:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
