# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The judge of the chaos program complains about every broken history, and about no sound one."""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import actions
import checker
import description
import faults
import hosts
import ledger
import network
import psycopg2
import pytest
import report
import units as unit_scripts
import writers
from checker import Ack, Evidence, Read, Transfer, Window
from course import Course, break_it, complaints_of
from errors import CannotHappen, DidNotHappen, Unreachable
from ledger import Entry, Kind, Ledger, Outcome
from nodes import Member, Nodes, Seen, lacking
from reach import Login, Machine, reach, ssh


def entry(key: int, outcome: Outcome = Outcome.OK, ended: float = 1.0, **more: Any) -> Entry:
    values: dict[str, Any] = {"kind": Kind.WRITE, "group": 1, "planned": ended, "begun": ended - 0.01, "error": ""}
    values |= more
    return Entry(key=key, outcome=outcome, ended=ended, **values)


def ack(node: str, timeline: int, begun: float, ended: float, key: int = 0) -> Ack:
    return Ack("worker1", node, timeline, key, begun, ended)


# ---- lost and phantom ----------------------------------------------------------------------------


def test_an_acknowledged_write_that_is_not_there_is_lost() -> None:
    entries = [entry(1), entry(2), entry(2, kind=Kind.REFERENCE)]
    assert checker.lost(entries, {Kind.WRITE: [1, 2], Kind.REFERENCE: [2]}) == []
    assert len(checker.lost(entries, {Kind.WRITE: [1], Kind.REFERENCE: [2]})) == 1
    assert len(checker.lost(entries, {Kind.WRITE: [1, 2]})) == 1  # the same key of another kind does not count
    assert len(checker.lost(entries, {})) == 3


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNKNOWN])
def test_what_was_not_acknowledged_cannot_be_lost(outcome: Outcome) -> None:
    assert checker.lost([entry(1, outcome)], {}) == []


@pytest.mark.parametrize(
    ("entries", "keys", "words"),
    [
        ([], [7], "nobody sent it"),
        ([entry(7, Outcome.FAILED)], [7], "although it was refused"),
        ([entry(7)], [7, 7], "there 2 times"),
        ([entry(7, Outcome.UNKNOWN)], [7, 7], "there 2 times"),
        ([entry(7, kind=Kind.TRANSFER)], [7], "nobody sent it"),
    ],
)
def test_phantoms(entries: list[Entry], keys: list[int], words: str) -> None:
    complaints = checker.phantom(entries, {Kind.WRITE: keys})
    assert len(complaints) == 1 and words in complaints[0]


def test_an_unknown_write_may_be_there_or_not() -> None:
    for keys in ([], [1]):
        assert checker.phantom([entry(1, Outcome.UNKNOWN)], {Kind.WRITE: keys}) == []
        assert checker.lost([entry(1, Outcome.UNKNOWN)], {Kind.WRITE: keys}) == []


def test_half_a_transfer_is_seen() -> None:
    assert checker.changed_totals([Read(1, 100), Read(2, 100)], 100) == []
    assert len(checker.changed_totals([Read(1, 100), Read(2, 99)], 100)) == 1


# ---- split brain ---------------------------------------------------------------------------------


def test_leadership_that_goes_to_and_fro_is_no_split_brain() -> None:
    history = [ack("a", 1, 1, 2), ack("a", 1, 3, 4), ack("b", 2, 5, 6), ack("a", 3, 7, 8)]
    assert checker.split_brain(history) == []
    assert checker.split_brain(history[::-1]) == []


def test_an_answer_that_was_late_is_no_split_brain() -> None:
    # Begun before the new leader acknowledged anything, heard of afterwards.
    assert checker.split_brain([ack("b", 2, 5, 6), ack("a", 1, 4, 6.5)]) == []


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([ack("a", 1, 1, 2), ack("b", 2, 3, 4), ack("a", 1, 5, 6)], id="the old leader goes on"),
        pytest.param([ack("b", 2, 3, 4), ack("b", 2, 8, 9), ack("a", 1, 5, 6)], id="between two of the new one"),
        pytest.param([ack("a", 1, 1, 2), ack("b", 1, 3, 4)], id="two servers on one timeline"),
    ],
)
def test_two_servers_that_acknowledge_in_the_same_period(history: list[Ack]) -> None:
    assert len(checker.split_brain(history)) == 1


def test_groups_do_not_mix() -> None:
    assert checker.split_brain([ack("a", 5, 1, 2), Ack("worker2", "c", 1, 0, 3, 4)]) == []


def test_a_probe_that_its_group_has_not_is_lost() -> None:
    assert checker.lost_acks([ack("a", 1, 1, 2, key=5)], {"worker1": [5]}) == []
    assert len(checker.lost_acks([ack("a", 1, 1, 2, key=5)], {"worker1": [], "worker2": [5]})) == 1


def test_an_account_has_what_its_transfers_say() -> None:
    transfers = [Transfer(1, 10, 11, 5), Transfer(2, 11, 12, 3)]
    assert checker.wrong_balances({10: 95, 11: 102, 12: 103, 13: 100}, transfers, 100) == []
    assert len(checker.wrong_balances({10: 100, 11: 102, 12: 103, 13: 100}, transfers, 100)) == 1
    # Two lost halves that make up for each other in the total.
    assert len(checker.wrong_balances({10: 100, 11: 97, 12: 103, 13: 100}, transfers, 100)) == 2


def test_copies_and_prepared_transactions() -> None:
    assert checker.different_copies({"a": "3:9", "b": "3:9"}) == []
    assert len(checker.different_copies({"a": "3:9", "b": "3:8"})) == 1
    assert checker.in_doubt({"a": 0}) == []
    assert len(checker.in_doubt({"a": 0, "b": 2})) == 1


# ---- the verdict ---------------------------------------------------------------------------------

SOUND = Evidence(
    seconds=10,
    groups=["coordinator", "worker1"],
    entries=[entry(1), entry(2, kind=Kind.TRANSFER), entry(3, Outcome.FAILED)],
    stored={Kind.WRITE: [1], Kind.TRANSFER: [2]},
    balances={1: 99, 2: 101},
    transfers=[Transfer(2, 1, 2, 1)],
    reads=[Read(1, 200)],
    acks=[Ack(group, group, 1, key, key, key + 0.1) for group in ("coordinator", "worker1") for key in (1, 2)],
    answers={"c1": 9, "c2": 9, "w1": 9},
    probes={"coordinator": [1, 2], "worker1": [1, 2]},
    copies={"a": "3:9", "b": "3:9"},
    prepared={"a": 0, "b": 0},
)


def test_a_sound_run_is_not_complained_of() -> None:
    assert checker.verdict(SOUND, accounts=2, balance=100) == []


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"stored": {Kind.WRITE: [], Kind.TRANSFER: [2]}}, "lost: the write 1"),
        ({"stored": {Kind.WRITE: [1, 3], Kind.TRANSFER: [2]}}, "phantom: the write 3"),
        ({"reads": [Read(1, 200), Read(2, 199)]}, "total: 199"),
        ({"balances": {1: 99, 2: 100}}, "account 2: 100 instead of 101"),
        ({"acks": [*SOUND.acks, Ack("worker1", "other", 1, 1, 8, 9)]}, "split brain"),
        ({"probes": {"coordinator": [1, 2], "worker1": [1]}}, "lost: worker1 acknowledged the probe 2"),
        ({"copies": {"a": "3:9", "b": "3:8"}}, "the copies differ"),
        ({"prepared": {"a": 0, "b": 1}}, "in doubt: 1 prepared transactions on b"),
        # What nobody saw proves nothing.
        ({"acks": SOUND.acks[:2]}, "evidence: worker1 acknowledged 0 probes"),
        ({"acks": []}, "evidence: coordinator acknowledged 0 probes"),
        ({"answers": {"c1": 9, "c2": 1}}, "evidence: c2 answered 1 probes in 10 s"),
        ({"reads": []}, "evidence: only 0 reads"),
        ({"copies": {"a": "3:9"}}, "evidence: copies of the reference table of 1 primaries only, of 2"),
        ({"prepared": {}}, "evidence: transactions in doubt of 0 primaries only, of 2"),
    ],
)
def test_every_flaw_is_complained_of(flaw: dict[str, Any], words: str) -> None:
    assert any(words in complaint for complaint in checker.verdict(replace(SOUND, **flaw), accounts=2, balance=100))


def happened(name: str, problem: str = "") -> faults.Happened:
    return faults.Happened(name, ("worker1-1",), 5, 10, 12, problem)


def complaints(course: Course, window: Window, named: bool = True) -> list[str]:
    return complaints_of(course, [report.Row(fault, window) for fault in course.happened], named)


def test_a_fault_that_has_to_be_noticed_may_be_noticed() -> None:
    course = Course([happened("kill_node:worker"), happened("etcd_lost_3:etcd*3"), happened("switchover:worker")])
    assert complaints(course, Window(2, 0, 0)) == []
    course = Course([happened("kill_node:worker")])
    assert complaints(course, Window(99, 99, 300)) == []


@pytest.mark.parametrize(
    ("course", "window", "words"),
    [
        (Course([happened("switchover:worker")]), Window(2, 2, 1), ["switchover:worker: 1 writes failed"]),
        (Course([happened("etcd_lost_1:etcd*1")]), Window(6, 6, 0), ["stood still for 6.0 s, and 5 are the most"]),
        (
            Course([happened("kill_node:worker")]),
            Window(101, 101, 300),
            ["stood still for 101.0 s, and 100 are the most"],
        ),
        (Course([happened("controller_killed:worker")]), Window(31, 31, 0), ["31.0 s, and 30 are the most"]),
        (
            Course([happened("kill_node:worker", "w is unknown")]),
            Window(0, 0, 0),
            ["kill_node:worker: w is unknown"],
        ),
        (Course(), Window(0, 0, 0), ["nothing was tried"]),
        (
            Course(left_out={"disk_full:worker": "large"}),
            Window(0, 0, 0),
            ["nothing", "disk_full:worker was left out"],
        ),
        (Course([happened("restart")], broken_off="KeyboardInterrupt()"), Window(0, 0, 0), ["broken off"]),
    ],
)
def test_a_course_is_complained_of(course: Course, window: Window, words: list[str]) -> None:
    found = complaints(course, window)
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_a_fault_that_there_was_no_time_for_is_left_out() -> None:
    course, nobody = Course(), cast(Any, None)
    break_it(nobody, nobody, argparse.Namespace(seed=1, each=1, minutes=-1), ["restart", "restart"], course)
    assert course.left_out == {"restart": "the run was over before its turn"}


def test_what_was_left_out_of_all_faults_is_told_and_no_complaint() -> None:
    course = Course([happened("restart")], {"disk_full:worker": "its disk is large"})
    assert complaints(course, Window(0, 0, 0), named=False) == []
    page = report.page(
        [report.Row(course.happened[0], Window(0.5, 0, 0))], [("seed", "1")], [], course.left_out, "x.svg"
    )
    assert "- `disk_full:worker`: its disk is large" in page
    assert "| 1 | `restart` | worker1-1 | 0.5 s | 0.0 s | 0 | 2 s |" in page and "| seed | 1 |" in page
    assert "Nothing was lost" in page
    assert "Nothing was lost" not in report.page([], [], ["lost: one"], {}, "x.svg")


# ---- is the cluster complete? ----------------------------------------------------------------------

GROUPS = {"coordinator": ["c1", "c2"]}
LEADING = Member("c1", "leader", "running", 3)
FOLLOWING = Member("c2", "sync_standby", "streaming", 3, 0)
WELL = Seen(running={"c1": True, "c2": True, "etcd-1": True}, members={"coordinator": [LEADING, FOLLOWING]})


def test_a_complete_cluster_lacks_nothing() -> None:
    assert lacking(GROUPS, WELL) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(WELL, running={"c1": True, "etcd-1": False}), "etcd-1 does not run"),
        (replace(WELL, holding=["pgbouncer-1"]), "pgbouncer-1 is paused, or does not answer"),
        (replace(WELL, speechless=["etcd-1"]), "etcd-1 is not well"),
        (replace(WELL, in_doubt={"c1": "2"}), "2 transactions on c1 are in doubt"),
        (replace(WELL, in_doubt={"c1": ""}), "an unknown number of transactions on c1 are in doubt"),
        (replace(WELL, members={}), "coordinator has 0 running leaders"),
        (replace(WELL, members={"coordinator": [LEADING]}), "c2 is unknown"),
        *(
            (replace(WELL, members={"coordinator": [LEADING, replace(FOLLOWING, **wrong)]}), words)
            for wrong, words in (
                ({"state": "running"}, "c2 does not stream"),
                ({"state": "start failed"}, "c2 is start failed"),
                ({"lag": None}, "c2 lags"),
                ({"lag": 2**30}, "c2 lags"),
                ({"timeline": 2}, "c2 is on timeline 2, c1 on 3"),
                ({"role": "replica"}, "coordinator has no synchronous standby"),
            )
        ),
    ],
)
def test_what_a_cluster_lacks(seen: Seen, words: str) -> None:
    assert words in lacking(GROUPS, seen)


# ---- what clients noticed ------------------------------------------------------------------------


def steady(begin: float, end: float, **more: Any) -> list[Entry]:
    return [entry(number, ended=begin + number * 0.25, **more) for number in range(int((end - begin) * 4) + 1)]


def test_nothing_noticed() -> None:
    assert checker.window(steady(0, 20), 5, 10) == Window(0.25, 0.0, 0)


def test_a_silence_of_one_group_does_not_hide_behind_another() -> None:
    entries = steady(0, 20) + steady(0, 6, group=2) + steady(9, 20, group=2)
    assert checker.window(entries, 5, 10) == Window(3.0, 3.0, 0)


def test_an_outage_goes_from_the_last_good_moment_to_the_first_that_is_sustained() -> None:
    entries = [*steady(0, 6), entry(90, Outcome.UNKNOWN, 7), *steady(7.5, 8), entry(91, Outcome.FAILED, 8.1)]
    entries += steady(8.5, 20)
    assert checker.window(entries, 5, 10) == Window(1.5, 2.5, 2)


def test_a_single_answer_does_not_end_an_outage() -> None:
    assert checker.window([*steady(0, 6), entry(90, ended=9), *steady(12, 20)], 5, 13) == Window(3.0, 6.0, 0)


def test_two_outages_with_a_steady_time_between_are_two() -> None:
    assert checker.window([*steady(0, 6), *steady(8, 12), *steady(15, 20)], 5, 16) == Window(3.0, 3.0, 0)


def test_an_outage_without_an_end_lasts_as_long_as_somebody_looks() -> None:
    assert checker.window(steady(0, 6), 5, 30) == Window(24.0, 24.0, 0)
    entries = [*steady(0, 6), entry(90, Outcome.UNKNOWN, 29)]
    assert checker.window(entries, 5, 25) == Window(23.0, 23.0, 0)


def test_trouble_of_another_time_does_not_count() -> None:
    entries = [*steady(0, 20), *steady(25, 40), entry(90, Outcome.FAILED, 41), *steady(42, 50)]
    assert checker.window(entries, 30, 38) == Window(0.25, 0.0, 0)


def test_what_begins_at_the_end_is_the_next_faults() -> None:
    entries = [*steady(0, 9.5), *steady(12, 30)]
    assert checker.window(entries, 2, 10) == Window(0.25, 0.0, 0)
    assert checker.window(entries, 10.5, 20) == Window(2.5, 2.5, 0)


def test_a_stream_is_steady_when_it_was_acknowledged_lately_and_without_an_error() -> None:
    both = {(Kind.WRITE, 1), (Kind.WRITE, 2)}
    entries = steady(0, 20) + steady(0, 20, group=2)
    assert checker.troubles(both, entries, 20) == []
    assert len(checker.troubles(both, [*entries, entry(90, Outcome.UNKNOWN, 19)], 20)) == 1
    assert len(checker.troubles(both, steady(0, 20) + steady(0, 10, group=2), 20)) == 1


def test_a_stream_that_has_long_been_silent_is_not_forgotten() -> None:
    assert len(checker.troubles({(Kind.WRITE, 1), (Kind.WRITE, 2)}, steady(0, 20), 20)) == 1


# ---- the ledger ----------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger")
    entries = [entry(book.new_key(), outcome, error="so it was") for outcome in Outcome]
    for one in entries:
        book.record(one)
    assert list(ledger.read(tmp_path / "ledger")) == entries == book.entries  # on disk before it is closed
    book.close()
    assert len({one.key for one in entries}) == 3
    assert book.latest(2) == entries[1:] and book.streams == {(Kind.WRITE, 1)}


class Refusal(psycopg2.Error):
    """An error as the server sends it."""

    def __init__(self, code: str | None) -> None:
        super().__init__("refused")
        self._code = code

    @property
    def pgcode(self) -> str | None:
        return self._code


@pytest.mark.parametrize(
    ("code", "sent", "outcome"),
    [
        ("25006", True, Outcome.FAILED),  # a standby
        ("40P01", True, Outcome.FAILED),
        ("40003", True, Outcome.UNKNOWN),
        ("57P01", True, Outcome.UNKNOWN),  # the server went down: before the commit or after it
        ("08006", True, Outcome.UNKNOWN),
        (None, True, Outcome.UNKNOWN),  # the connection broke
        (None, False, Outcome.FAILED),  # there was none to send it through
    ],
)
def test_what_a_client_knows_after_an_error(code: str | None, sent: bool, outcome: Outcome) -> None:
    assert writers.outcome_of(Refusal(code), sent) is outcome


# ---- the program ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_order() -> None:
    orders = [list(faults.order(faults.every(), faults.random.Random(4), 2)) for _time in range(2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(faults.every() * 2)
    assert orders[0] != list(faults.order(faults.every(), faults.random.Random(5), 2))


def test_the_quick_faults_exist() -> None:
    assert set(faults.QUICK) <= set(faults.every())


# ---- faults --------------------------------------------------------------------------------------


class Disks:
    """A cluster in which every node answers with the size of its data volume, and remembers what it was told."""

    groups: ClassVar = {"coordinator": ["c1", "c2"], "worker1": ["w1", "w2"]}

    def __init__(self, size: int, free: int = 0) -> None:
        self.size = size
        self.free = free
        self.segments = 3
        self.told: list[str] = []

    def leader(self, group: str) -> str:
        return self.groups[group][0]

    def lacking(self) -> list[str]:
        return []

    def leadership(self, without: object = ()) -> dict[str, tuple[str, int]]:
        return {}

    def group_of(self, _node: str) -> str:
        return "worker1"

    def query(self, _node: str, statement: str) -> str:
        self.told.append(statement.split()[1])
        return "t" if self.told.count("pg_switch_wal()") < self.segments else ""

    def inside(self, _node: str, *argv: str) -> str:
        self.told.append(argv[0])
        return str(self.size)

    def must(self, _node: str, *_argv: str) -> str:
        return str(self.free)


def test_a_bearable_fault_after_which_somebody_else_leads_is_a_problem() -> None:
    before = {"coordinator": ("c1", 3), "worker1": ("w1", 1), "worker2": ("w3", 5)}
    after = {**before, "worker1": ("w2", 2), "worker2": ("w3", 7)}
    assert faults.taken_over(before, before) == ""
    assert faults.taken_over(before, after) == (
        "worker1 was led by w1 on timeline 1, then by w2 on 2; worker2 was led by w3 on timeline 5, then by w3 on 7"
    )


def test_every_fault_has_somebody_or_cannot_happen(containers: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes = copy.copy(containers[0])
    nodes.leader = lambda group: nodes.groups[group][0]  # type: ignore[method-assign]
    chance = random.Random(1)
    for name in faults.every():
        if place := name.partition(":")[2]:
            hit = faults.targets(nodes, place, chance)
            assert hit and set(hit) <= {*nodes.all, "machine"}, name
    assert faults.targets(nodes, "worker+coordinator_standby", chance)[1] == "coordinator-2"
    assert len(set(faults.targets(nodes, "etcd*2", chance))) == 2
    nodes.groups = {"coordinator": ["coordinator-1"]}
    nodes.etcd, nodes.proxies = nodes.etcd[:1], []
    for place in ("worker", "standby", "etcd*2", "haproxy", "coordinator+worker_standby"):
        with pytest.raises(CannotHappen, match="nobody, or too few, for"):
            faults.targets(nodes, place, chance)


def test_a_disk_that_was_not_made_for_it_is_not_filled() -> None:
    nodes: Any = Disks(100 * 2**30)
    with pytest.raises(actions.CannotHappen, match="w1 has its data on 100 GiB"):
        faults.happen(nodes, "disk_full:worker", random.Random(1), 1, list)
    assert "dd" not in nodes.told


def test_a_small_disk_is_filled_and_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Any = Disks(2**30)
    monkeypatch.setattr(faults.time, "sleep", lambda _seconds: None)
    happened = faults.happen(nodes, "disk_full:worker", random.Random(1), 1, list)
    assert (happened.nodes, happened.problem) == (("w1",), "")
    assert [word for word in nodes.told if word != "NOT"][-5:] == ["dd", *["pg_switch_wal()"] * 3, "rm"]


def test_a_fault_that_did_not_happen_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Any = Disks(2**30, free=70)
    monkeypatch.setattr(faults.time, "sleep", lambda _seconds: None)
    happened = faults.happen(nodes, "disk_full:worker", random.Random(1), 1, list)
    assert happened.problem == "it did not happen: w1 has 70 MiB free on the disk that was to be full"
    assert nodes.told[-1] == "rm", "and is undone all the same"
    nodes.free, nodes.segments = 0, 1000
    happened = faults.happen(nodes, "disk_full:worker", random.Random(1), 1, list)
    assert happened.problem == "it did not happen: w1 still writes to the disk that is full"


class Processes:
    """A node in which a process of the number 7 was born at 100 and does what it is told, or not."""

    def __init__(self, obeys: bool) -> None:
        self.obeys = obeys
        self.state = "S"
        self.told: list[str] = []

    def must(self, node: str, *argv: str) -> str:
        if argv[2] == "nobody":
            raise DidNotHappen(f"no such process on {node}")
        return f"{self.state} 100" if "/proc/" in argv[2] else "7"

    def inside(self, node: str, *argv: str) -> str:
        if "/proc/" in argv[2]:
            return self.must(node, *argv)
        self.told.append(argv[2])
        if self.obeys:
            self.state = "T" if "-STOP" in argv[2] else "Z"
        return ""


def test_a_signal_has_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "OBEY_SECONDS", 0.1)
    node: Any = Processes(obeys=True)
    actions.signal_to("STOP", "find", children=True)(node, "w1")
    actions.signal_to("KILL", "find")(node, "w1")
    assert node.told == ["pkill -STOP -P 7; kill -STOP 7", "kill -KILL 7"]
    stubborn: Any = Processes(obeys=False)
    for name in ("STOP", "KILL"):
        with pytest.raises(DidNotHappen, match=f"SIG{name} to process 7 of w1 left it in state S"):
            actions.signal_to(name, "find")(stubborn, "w1")
    with pytest.raises(DidNotHappen, match="no such process"):
        actions.signal_to("KILL", "nobody")(stubborn, "w1")


# ---- machines ------------------------------------------------------------------------------------


class Scripted(Machine):
    """A machine that remembers what it was told to do as root, and answers ``said`` with ``code``."""

    def __init__(self, name: str = "m1", code: int = 0, said: str = "", ssh: tuple[str, str] | None = None) -> None:
        super().__init__(name)
        self.ssh = ssh
        self.code = code
        self.said = said
        self.told: list[tuple[str, ...]] = []
        self.input = ""

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        self.told.append(argv)
        self.input = text or self.input
        return subprocess.CompletedProcess(argv, self.code, self.said, "")


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs in which ssh runs its last word here, for the user 1000 who may become root."""
    folder = tmp_path / "bin"
    program(
        folder,
        "ssh",
        'for word; do last=$word; done; export SSH_CONNECTION="192.0.2.1 999 192.0.2.9 2222"; sh -c "$last"',
    )
    program(folder, "id", "echo 1000")
    program(folder, "sudo", 'shift 2; exec env AS=root "$@"')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_command_arrives_as_it_is(logged_in: Path, tmp_path: Path) -> None:
    machine = reach({"m1": ("sh",)}, {"m1": Login("ssh", "192.0.2.9")}, tmp_path)["m1"]
    assert machine.ssh == ("192.0.2.1", "2222")
    ran = machine.run("sh", "-c", 'echo "$AS $0"; cat; exit 7', "it's $HOME", text="input")
    assert (ran.returncode, ran.stdout) == (7, "root it's $HOME\ninput")
    program(logged_in, "id", "echo 0")
    program(logged_in, "sudo", "echo root needs none >&2; exit 1")
    assert reach({"m1": ()}, {"m1": Login("ssh", "192.0.2.9")}, tmp_path)["m1"].run("echo", "1").stdout == "1\n"


def test_ssh_is_called_as_the_inventory_says() -> None:
    login = Login("ssh", "192.0.2.9", "2222", "ops", "/keys/a key", "-o ControlPath=/theirs -J 'jump host'")
    words = ssh(login, Path("/tmp/s/1"), "no")
    assert words[0] == "ssh" and words[-1] == "192.0.2.9"
    assert words.index("ControlPath=/tmp/s/1") < words.index("ControlPath=/theirs"), "ssh takes the first"
    for pair in (("-p", "2222"), ("-l", "ops"), ("-i", "/keys/a key"), ("-J", "jump host"), ("-o", "BatchMode=yes")):
        assert pair in itertools.pairwise(words)
    assert not {"-p", "-l", "-i"} & {*ssh(Login("ssh", "192.0.2.9"), Path("s"), "no")}


@pytest.mark.parametrize(
    ("name", "script", "words"),
    [
        ("ssh", "echo Permission denied >&2; exit 255", "m1: no login by ssh to 192.0.2.9: Permission denied"),
        (
            "sudo",
            "echo a password is required >&2; exit 1",
            "m1: without NOPASSWD in sudoers nobody becomes root: a password",
        ),
        ("docker", "", "m1 has no nsenter-of-old"),
    ],
)
def test_every_machine_that_cannot_be_used_is_named(
    logged_in: Path, tmp_path: Path, name: str, script: str, words: str
) -> None:
    program(logged_in, name, script)
    needs = dict.fromkeys(("m1", "m2"), ("docker", "nsenter-of-old"))
    with pytest.raises(Unreachable) as refused:
        reach(needs, {machine: Login("ssh", "192.0.2.9") for machine in needs}, tmp_path)
    assert words in str(refused.value) and words.replace("m1", "m2") in str(refused.value)


def test_a_machine_that_the_inventory_does_not_have_is_this_one(tmp_path: Path) -> None:
    assert type(reach({"localhost": ()}, {}, tmp_path)["localhost"]) is Machine


# ---- nodes ---------------------------------------------------------------------------------------


@functools.cache
def example(inventory: str) -> description.Description:
    """What the collection knows of an example."""
    return description.describe(description.REPOSITORY / "inventories" / inventory)


def described(inventory: str) -> tuple[Nodes, dict[str, Scripted]]:
    """The nodes of an example, on machines that only remember."""
    known = example(inventory)
    remote = description.logins(known)
    machines = {
        name: Scripted(name, ssh=("192.0.2.1", "22") if name in remote else None) for name in description.needs(known)
    }
    return Nodes(Path(inventory), known, description.hosts(known, machines)), machines


@pytest.fixture(scope="module")
def containers() -> tuple[Nodes, dict[str, Scripted]]:
    return described("docker")


@pytest.fixture(scope="module")
def units() -> tuple[Nodes, dict[str, Scripted]]:
    return described("vm")


@pytest.mark.parametrize("kind", ["containers", "units"])
def test_the_topology_is_the_collections(kind: str, request: pytest.FixtureRequest) -> None:
    nodes, machines = request.getfixturevalue(kind)
    assert list(nodes.groups) == ["coordinator", "worker1", "worker2"]
    assert nodes.groups["worker1"] == ["worker1-1", "worker1-2"]
    assert nodes.proxies == ["pgbouncer-1-haproxy"] and "worker2-2-lease" in nodes.keepers
    assert len(nodes.all) == 17 and "postgres-1" not in nodes.all
    assert nodes.port("pgbouncer-1", "pgbouncer_port") == 6432
    assert list(machines) == (["localhost"] if kind == "containers" else [*nodes.etcd, *nodes.postgres, *nodes.poolers])


@pytest.mark.parametrize(
    ("kind", "user"),
    [("containers", ["docker", "exec", "-i", "worker1-1"]), ("units", ["runuser", "-u", "postgres", "--"])],
)
def test_a_command_runs_in_a_node_as_its_user(kind: str, user: list[str], request: pytest.FixtureRequest) -> None:
    nodes, machines = request.getfixturevalue(kind)
    machine = machines.get("worker1-1", machines.get("localhost"))
    machine.said = "postgres\n"
    assert nodes.inside("worker1-1", "whoami") == "postgres\n"
    assert machine.told[-1] == (*user, "whoami")
    assert nodes.host("worker1-1").command("psql")[-5:] == [*user, "psql"]
    machine.code = 3
    with pytest.raises(DidNotHappen, match="whoami on worker1-1 ended with 3: postgres"):
        nodes.must("worker1-1", "whoami")
    machine.code, machine.said = 0, ""


def told(machine: Scripted) -> str:
    """The last command, and the end of it: what it was about."""
    return " ".join(machine.told[-1])


def test_a_node_is_killed_and_started_where_it_lives() -> None:
    multi, machines = described("docker_multi")
    assert list(machines) == ["machine-1", "machine-2"]
    actions.kill(multi, "worker2-1")
    assert "docker kill" in told(machines["machine-2"]) and machines["machine-2"].told[-1][4] == "worker2-1"
    assert machines["machine-1"].told == []
    actions.kill_machine(multi, "coordinator-1")
    assert [words[4] for words in machines["machine-1"].told] == ["coordinator-1-lease", "coordinator-1"]


def test_a_unit_stays_away_until_it_is_started(units: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes, machines = units
    machine = machines["worker1-2"]
    actions.kill(nodes, "worker1-2-lease")
    switch, kill = machine.told[-2:]
    assert switch[4:6] == ("citus_ha-lease.service", "citus_ha-lease-chaos") and "systemd-run" in switch[2]
    assert switch[6] == unit_scripts.START, "what the machine does by itself is what undoes it"
    assert kill[4] == "citus_ha-lease.service" and "Restart=no" in kill[2] and "--signal=KILL" in kill[2]
    actions.start(nodes, "worker1-2-lease")
    started, switched_off = machine.told[-2:]
    assert 'systemctl start "$1"' in started[2] and switched_off[2:] == (
        *(unit_scripts.SWITCH_OFF, "sh", "citus_ha-lease.service", "citus_ha-lease-chaos"),
    )


def test_a_killed_unit_that_lives_on_did_not_happen(units: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes, machines = units
    machine = machines["worker2-2"]
    machine.code, machine.said = 1, "some of its processes go on"
    with pytest.raises(DidNotHappen, match="worker2-2 ended with 1: some of its processes go on"):
        actions.freeze(nodes, "worker2-2")


@pytest.mark.parametrize("kind", ["containers", "units"])
def test_every_machine_and_every_network_has_its_turn_once(kind: str, request: pytest.FixtureRequest) -> None:
    nodes, machines = request.getfixturevalue(kind)
    assert len(nodes.first_of_each(faults.MACHINE)) == len(machines)
    assert len(nodes.first_of_each(faults.NETWORK)) == (17 if kind == "containers" else len(machines))


def test_what_cannot_be_undone_is_said_and_the_rest_is_undone() -> None:
    nodes, machines = described("vm")
    machines["etcd-2"].code, machines["etcd-2"].said = 255, "it does not answer"
    left = faults.undo_everything(nodes)
    assert left and all("etcd-2" in reason and "it does not answer" in reason for reason in left)
    for script in (unit_scripts.THAW, unit_scripts.START, unit_scripts.MAKE_IDLE, network.MEND):
        for name in set(machines) - {"etcd-2"}:
            assert script in [words[2] for words in machines[name].told]


# ---- networks ------------------------------------------------------------------------------------

SPARED = ["-A CITUS_HA_CHAOS -i lo -j RETURN", "-A CITUS_HA_CHAOS -o lo -j RETURN"]
SSH = [
    "-A CITUS_HA_CHAOS -s 192.0.2.1 -p tcp --dport 22 -j RETURN",
    "-A CITUS_HA_CHAOS -d 192.0.2.1 -p tcp --sport 22 -j RETURN",
]
HOOKS = ["-I INPUT -j CITUS_HA_CHAOS", "-I OUTPUT -j CITUS_HA_CHAOS", "COMMIT"]


def test_a_container_is_cut_off_in_its_own_network(containers: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes, machines = containers
    actions.cut_off(nodes, "worker1-1")
    machine = machines["localhost"]
    assert "nsenter" in told(machine) and machine.told[-1][3:] == ("worker1-1", "iptables-restore", "-w", "--noflush")
    assert machine.input.splitlines() == [
        *("*filter", ":CITUS_HA_CHAOS - [0:0]", *SPARED, "-A CITUS_HA_CHAOS -j DROP", *HOOKS)
    ]


def test_a_machine_is_cut_off_but_for_this_program_and_mends_itself(units: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes, machines = units
    actions.cut_off(nodes, "pgbouncer-1-haproxy")
    machine = machines["pgbouncer-1"]
    assert machine.input.splitlines()[2:] == [*SPARED, *SSH, "-A CITUS_HA_CHAOS -j DROP", *HOOKS]
    switch, _looked, cut = machine.told[-3:]
    assert cut == ("iptables-restore", "-w", "--noflush")
    assert "systemd-run" in switch[2] and switch[5:] == ("citus_ha-chaos-network", network.MEND)
    actions.mend_network(nodes, "pgbouncer-1-haproxy")
    assert machine.told[-2][2] == network.MEND
    assert machine.told[-1][2:] == (unit_scripts.SWITCH_OFF, "sh", "", "citus_ha-chaos-network")


def test_a_node_is_cut_from_its_peers(units: tuple[Nodes, dict[str, Scripted]]) -> None:
    nodes, machines = units
    actions.cut_from_etcd(nodes, "worker1-1")
    dropped = [line.split()[2:4] for line in machines["worker1-1"].input.splitlines() if line.endswith("DROP")]
    assert dropped == [[side, nodes.address(member)] for member in nodes.etcd for side in ("-s", "-d")]
    actions.cut_replication(nodes, "worker1-1")
    peer = nodes.address("worker1-2")
    dropped = [line.split()[2:] for line in machines["worker1-1"].input.splitlines() if line.endswith("DROP")]
    assert [" ".join(words[:6]) for words in dropped] == [
        *(f"-s {peer} -p tcp {port} 5432" for port in ("--dport", "--sport")),
        *(f"-d {peer} -p tcp {port} 5432" for port in ("--sport", "--dport")),
    ]


def test_rules_are_of_one_version_of_ip() -> None:
    text = network.rules(["", "-s 2001:db8::1", "-s 192.0.2.7"], "DROP", ["OUTPUT"], ("2001:db8::9", "22"), 6)
    assert "-s 2001:db8::1 -j DROP" in text and "192.0.2.7" not in text and "-I INPUT" not in text
    assert "-s 2001:db8::9 -p tcp --dport 22 -j RETURN" in text
    assert "neighbour-solicitation -j RETURN" in text, "without it there is no way to the machine"
    text = network.rules(["", "-s 2001:db8::1", "-s 192.0.2.7"], "DROP", ["OUTPUT"], ("2001:db8::9", "22"), 4)
    assert "-s 192.0.2.7 -j DROP" in text and "2001" not in text and "ipv6" not in text


def test_a_network_that_is_not_the_clusters_alone_is_left_alone() -> None:
    multi, machines = described("docker_multi")
    for action in (actions.cut_off, actions.cut_from_etcd, actions.lose_packets, actions.delay_packets(1, 1, 1)):
        with pytest.raises(actions.CannotHappen, match="on machine-1 have no network of their own"):
            action(multi, "worker1-1")
    assert machines["machine-1"].told == []
    here = description._network(Scripted("localhost"), [])
    with pytest.raises(actions.CannotHappen, match="the machine that this program runs on"):
        here.drop("")


def test_what_a_machine_lacks_for_a_fault_is_said() -> None:
    bare = network.Network(Scripted("etcd-3", code=1), (), ["192.0.2.1"])
    with pytest.raises(actions.CannotHappen, match="etcd-3 has no iptables-restore: apt-get install iptables"):
        bare.drop("")
    with pytest.raises(actions.CannotHappen, match="etcd-3 has no tc: apt-get install iproute2; "):
        bare.delay(1, 1, 1)


def test_no_fault_lasts_as_long_as_what_undoes_it_by_itself() -> None:
    assert max(fault.seconds for fault in faults.FAULTS.values()) < unit_scripts.DEAD_MAN
    assert max(fault.seconds for fault in faults.FAULTS.values()) < hosts.BUSY_SECONDS
