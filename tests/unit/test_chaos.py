# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The judge of the chaos program complains about every broken history, and about no sound one."""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import actions
import checker
import faults
import ledger
import nodes
import psycopg2
import pytest
import report
import writers
from checker import Ack, Evidence, Read, Transfer, Window
from course import Course, break_it, complaints_of
from ledger import Entry, Kind, Ledger, Outcome
from nodes import DidNotHappen, Member, Nodes, Seen, lacking


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
    assert complaints(course, Window(20, 20, 300)) == []


@pytest.mark.parametrize(
    ("course", "window", "words"),
    [
        (Course([happened("switchover:worker")]), Window(2, 2, 1), ["switchover:worker: 1 writes failed"]),
        (Course([happened("etcd_lost_1:etcd*1")]), Window(6, 6, 0), ["stood still for 6.0 s, and 5 are the most"]),
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
        self.told: list[str] = []

    def leader(self, group: str) -> str:
        return self.groups[group][0]

    def lacking(self) -> list[str]:
        return []

    def leadership(self, without: object = ()) -> dict[str, tuple[str, int]]:
        return {}

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
    assert nodes.told[-2:] == ["dd", "rm"]


def test_a_fault_that_did_not_happen_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Any = Disks(2**30, free=70)
    monkeypatch.setattr(faults.time, "sleep", lambda _seconds: None)
    happened = faults.happen(nodes, "disk_full:worker", random.Random(1), 1, list)
    assert happened.problem == "it did not happen: w1 has 70 MiB free on the disk that was to be full"
    assert nodes.told[-1] == "rm", "and is undone all the same"


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


def test_a_cluster_on_the_machines_own_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".secrets").mkdir()
    (tmp_path / ".secrets/app.dsn").write_text("host=127.0.0.1", encoding="utf-8")
    groups = {group: {"hosts": [f"{group}-1"]} for group in ("coordinator", "etcd", "pgbouncer")}
    described = {**groups, "workers": {"children": []}, "_meta": {"hostvars": {"coordinator-1": {}}}}
    monkeypatch.setattr(nodes, "_inventory", lambda _inventory: described)

    def engine(mode: str) -> SimpleNamespace:
        made = SimpleNamespace(name="coordinator-1", attrs={"HostConfig": {"NetworkMode": mode}})
        return SimpleNamespace(containers=SimpleNamespace(list=lambda all: [made]))

    monkeypatch.setattr(nodes.docker, "from_env", lambda: engine("citus_ha.citus"))
    assert Nodes(tmp_path).postgres == ["coordinator-1"]
    monkeypatch.setattr(nodes.docker, "from_env", lambda: engine("host"))
    with pytest.raises(SystemExit, match=r"this machine's own.*coordinator-1"):
        Nodes(tmp_path)
