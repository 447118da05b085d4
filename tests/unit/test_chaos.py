# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The judge of the chaos program complains about every broken history, and about no sound one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import actions
import checker
import faults
import ledger
import psycopg2
import pytest
import writers
from checker import Ack, Read, Window
from ledger import Entry, Kind, Ledger, Outcome


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


def test_copies_and_prepared_transactions() -> None:
    assert checker.different_copies({"a": "3:9", "b": "3:9"}) == []
    assert len(checker.different_copies({"a": "3:9", "b": "3:8"})) == 1
    assert checker.in_doubt({"a": 0}) == []
    assert len(checker.in_doubt({"a": 0, "b": 2})) == 1


# ---- what clients noticed ------------------------------------------------------------------------


def steady(begin: float, end: float, **more: Any) -> list[Entry]:
    return [entry(number, ended=begin + number * 0.25, **more) for number in range(int((end - begin) * 4) + 1)]


def test_nothing_noticed() -> None:
    assert checker.window(steady(0, 20), 5, 10) == Window(0.25, 0.0, 0)


def test_a_silence_of_one_group_does_not_hide_behind_another() -> None:
    entries = steady(0, 20) + steady(0, 6, group=2) + steady(9, 20, group=2)
    assert checker.window(entries, 5, 10) == Window(3.0, 3.0, 0)


def test_the_window_goes_from_the_last_good_moment_to_the_first_after_the_last_error() -> None:
    entries = [*steady(0, 6), entry(90, Outcome.UNKNOWN, 7), *steady(7.5, 8), entry(91, Outcome.FAILED, 8.1)]
    entries += steady(8.5, 20)
    assert checker.window(entries, 5, 10) == Window(1.5, 2.5, 2)


def test_trouble_of_another_time_does_not_count() -> None:
    entries = [*steady(0, 20), *steady(25, 40), entry(90, Outcome.FAILED, 41), *steady(42, 50)]
    assert checker.window(entries, 30, 38) == Window(0.25, 0.0, 0)


def test_what_begins_at_the_end_is_the_next_faults() -> None:
    entries = [*steady(0, 9.5), *steady(12, 30)]
    assert checker.window(entries, 2, 10) == Window(0.25, 0.0, 0)
    assert checker.window(entries, 10.5, 20) == Window(2.5, 2.5, 0)


def test_a_stream_is_steady_when_it_was_acknowledged_lately_and_without_an_error() -> None:
    entries = steady(0, 20) + steady(0, 20, group=2)
    assert checker.troubles(entries, 20) == []
    assert len(checker.troubles([*entries, entry(90, Outcome.UNKNOWN, 19)], 20)) == 1
    assert len(checker.troubles(steady(0, 20) + steady(0, 10, group=2), 20)) == 1


# ---- the ledger ----------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger")
    entries = [entry(book.new_key(), outcome, error="so it was") for outcome in Outcome]
    for one in entries:
        book.record(one)
    assert list(ledger.read(tmp_path / "ledger")) == entries == book.entries  # on disk before it is closed
    book.close()
    assert len({one.key for one in entries}) == 3


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

    def __init__(self, size: int) -> None:
        self.size = size
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
