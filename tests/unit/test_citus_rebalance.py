# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The rules of citus_rebalance by table, and its action plugin with a module that is made up."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.action import citus_node as node_plugin
from ansible_collections.citus_ha.cluster.plugins.action import citus_rebalance as plugin
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance import (
    Move,
    Request,
    check_strategy,
    loads_as_text,
    predict_loads,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_drain import drain
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_executors import (
    PER_NODE,
    TOTAL,
    plan_executors,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_rebalance_job import (
    Job,
    failure,
    full_progress,
    human,
    line,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.plugin_utils import waiting

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MOVES = (
    Move("public.events", 1, 100, "w1:5432", "w3:5432"),
    Move("public.visits", 2, 10, "w1:5432", "w3:5432"),
)


def job(state: str = "running", **options: Any) -> Job:
    values: dict[str, Any] = {
        "started_at": NOON,
        "seen_at": NOON + timedelta(seconds=20),
        "tasks": {"done": 1, "running": 3},
    }
    return Job(7, state, **{**values, **options})


def test_loads_after_moves() -> None:
    before = {"w1:5432": (4, 1000), "w3:5432": (0, 0)}
    after = predict_loads(before, MOVES)
    assert after == {"w1:5432": (2, 890), "w3:5432": (2, 110)}
    assert before["w1:5432"] == (4, 1000)
    assert loads_as_text(after) == "w1:5432: 2 shards, 890 bytes\nw3:5432: 2 shards, 110 bytes\n"


@pytest.mark.parametrize(
    ("current", "parallelism", "nodes", "expected"),
    [
        ((1, 1), None, 3, {}),
        ((1, 1), 1, 1, {}),
        ((1, 1), 1, 3, {TOTAL: 3}),
        ((1, 1), 4, 3, {TOTAL: 12, PER_NODE: 4}),
        ((20, 2), 4, 3, {PER_NODE: 4}),
        ((20, 8), 4, 3, {}),
        ((1, 1), 128, 100, {TOTAL: 1000, PER_NODE: 128}),
    ],
)
def test_executors(current: tuple[int, int], parallelism: int | None, nodes: int, expected: dict[str, int]) -> None:
    values = dict(zip((TOTAL, PER_NODE), current, strict=True))
    assert plan_executors(values, parallelism, nodes) == expected


def test_a_server_without_these_settings_gets_none() -> None:
    assert plan_executors({}, 4, 3) == {}


def test_strategies() -> None:
    known = {"by_disk_size": True, "by_shard_count": False}
    check_strategy(Request(), known)
    check_strategy(Request(strategy="by_shard_count"), known)
    with pytest.raises(InvalidInput, match="The server has: by_disk_size, by_shard_count"):
        check_strategy(Request(strategy="by_size"), known)


def test_progress() -> None:
    told = full_progress(job(), MOVES)
    assert (told["percent"], told["moves_done"], told["moves_total"], told["bytes_left"]) == (25, 1, 4, 110)
    assert (told["seconds"], told["seconds_left"]) == (20, 60)
    assert full_progress(job(tasks={"running": 4}), MOVES)["seconds_left"] is None
    done = full_progress(job("finished", finished_at=NOON + timedelta(seconds=80), tasks={"done": 4}), ())
    assert (done["percent"], done["seconds"], done["seconds_left"], done["bytes_left"]) == (100, 80, 0, 0)
    none = full_progress(None, ())
    assert (none["job_id"], none["state"], none["percent"], none["seconds"]) == (None, "none", 100, None)


def test_one_line_for_a_person() -> None:
    task = {
        "hosts": {"source": "w1:5432", "target": "w3:5432"},
        "phase": "Copying Data",
        "size": {"source": 2048, "target": 1024},
        "message": None,
        "task_id": 3,
        "command": "SELECT 1",
    }
    told = full_progress(job(running=(task,)), [Move("t", 1, 737280, "w1:5432", "w3:5432")])
    assert line(told) == (
        "rebalance job 7: 25 % (1 of 4 moves), 720.0 KiB left, 20 s so far, about 60 s to go,"
        " w1:5432 -> w3:5432 Copying Data"
    )


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**5, "5.0 PiB")])
def test_human(size: int, text: str) -> None:
    assert human(size) == text


def test_failure_names_the_reason() -> None:
    error = {"task_id": 3, "command": "SELECT 1", "message": "ERROR:\n  out of space"}
    told = full_progress(job("failed", running=(error,)), ())
    assert "failed after 1 of 4 moves: task 3 (SELECT 1): ERROR: out of space" in failure(told, "c")
    assert failure(full_progress(job("finished"), ()), "c") == ""


# ---- draining ----------------------------------------------------------------------------------


class FakeServer:
    """A server that needs some looks to end a job."""

    where = "somewhere"

    def __init__(self, left: int, ends: str = "finished", looks: int = 2) -> None:
        self.left, self.ends, self.looks = left, ends, looks
        self.state = ""
        self.executed: list[str] = []

    def query(self, statement: str, values: Any = None) -> list[dict[str, Any]]:
        assert "citus_rebalance_status" in statement
        if not self.state:
            return []
        if self.state == "running":
            self.looks -= 1
            if self.looks <= 0:
                self.state = self.ends
                self.left = 0 if self.ends == "finished" else self.left
        moments = {"started_at": NOON, "finished_at": None, "seen_at": NOON}
        return [{"job_id": 1, "state": self.state, "details": {}, **moments}]

    def execute(self, statement: str, values: Any = None) -> None:
        self.executed.append(statement.split("(")[0])
        if "citus_rebalance_start" in statement and self.ends != "nothing":
            self.state = "running"


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def run_drain(server: FakeServer, timeout: float = 60) -> None:
    drain(server, lambda: server.left, "auto", timeout, lambda text: None)  # type: ignore[arg-type]


def test_drain() -> None:
    server = FakeServer(left=4)
    run_drain(server)
    assert server.executed == ["SELECT citus_rebalance_start", "CALL citus_cleanup_orphaned_resources"]


def test_drain_waits_for_the_job_of_an_interrupted_call() -> None:
    server = FakeServer(left=4)
    server.state = "running"
    run_drain(server)
    assert server.executed == ["CALL citus_cleanup_orphaned_resources"]


def test_drain_that_fails() -> None:
    with pytest.raises(ServerError, match="failed with 4 shards left"):
        run_drain(FakeServer(left=4, ends="failed"))
    with pytest.raises(Refused, match="plans no move although 4 shards are left"):
        run_drain(FakeServer(left=4, ends="nothing"))
    with pytest.raises(TimedOut, match="The job goes on in the server"):
        run_drain(FakeServer(left=4, looks=1000), timeout=0)


# ---- the action plugin -------------------------------------------------------------------------


def result(state: str, **options: Any) -> dict[str, Any]:
    told = full_progress(job(state), MOVES)
    return {"changed": False, "running": state == "running", "progress": told, "queries": [], **options}


STARTED = result("running", changed=True, moves=["a move"], bytes=110, settings={}, queries=["start"])
WAITING = {"failed": True, "timed_out": True, "progress": STARTED["progress"], "msg": "not yet"}


class Task:
    def __init__(self, **args: Any) -> None:
        self.args = args
        self.check_mode = False
        self.async_val = 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(waiting.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
    return made


def act(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]], task: Task, *answers: dict[str, Any], of: Any = plugin
) -> dict[str, Any]:
    """The plugin's result when the module gives ``answers`` one after the other."""
    prepared = list(answers)

    def execute(self: Any, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        calls.append(module_args)
        return prepared.pop(0)

    monkeypatch.setattr(of.ActionModule, "_execute_module", execute)
    action = of.ActionModule.__new__(of.ActionModule)
    action._task = task
    told: dict[str, Any] = action.run(task_vars={"inventory_hostname": "c1"})
    assert not prepared, "an answer was not asked for"
    return told


def test_the_plugin_waits_in_pieces(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(waiting.display, "display", said.append)
    told = act(monkeypatch, calls, Task(progress_interval=5), STARTED, WAITING, WAITING, result("finished"))
    assert [call["state"] for call in calls] == ["started", "waited", "waited", "waited"]
    assert calls[1]["wait_timeout"] == 5
    assert len(said) == 3
    assert said[0].startswith("[c1] rebalance job 7: 25 %")
    assert (told["changed"], told["moves"], told["queries"]) == (True, ["a move"], ["start"])
    assert not told.get("failed")


def test_the_plugin_ends_with_the_time(monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]) -> None:
    monkeypatch.setattr(waiting.display, "display", lambda text: None)
    told = act(monkeypatch, calls, Task(wait_timeout=3, progress_interval=5), STARTED, WAITING)
    assert calls[1]["wait_timeout"] == 3
    assert (told["failed"], told["msg"], told["changed"]) == (True, "not yet", True)


def test_the_plugin_notices_a_job_that_failed_unseen(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(waiting.display, "display", lambda text: None)
    for task, first in ((Task(), STARTED), (Task(state="waited"), WAITING)):
        told = act(monkeypatch, calls, task, first, result("failed"))
        assert told["failed"] is True
        assert "Mend the cause" in told["msg"]


def test_the_plugin_calls_once_when_there_is_nothing_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    act(monkeypatch, calls, Task(state="started"), STARTED)
    act(monkeypatch, calls, Task(), result("finished"))
    act(monkeypatch, calls, Task(wait_timeout="soon"), {"failed": True})
    checked = Task()
    checked.check_mode = True
    act(monkeypatch, calls, checked, result("finished"))
    assert [call.get("state") for call in calls] == ["started", "started", None, None]


def test_a_drain_is_waited_for_in_pieces(monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]) -> None:
    said: list[str] = []
    monkeypatch.setattr(waiting.display, "display", said.append)
    begun = {
        **WAITING,
        "changed": True,
        "actions": ["set", "drain"],
        "queries": ["one"],
        "diff": {"before": "full", "after": "empty"},
    }
    rest = {**begun, "actions": ["drain"], "queries": ["two"]}
    done = {"changed": True, "actions": ["drain"], "queries": ["two"], "diff": {"before": "half", "after": "gone"}}
    task = Task(state="absent", drain="yes", wait_timeout=100)
    told = act(monkeypatch, calls, task, begun, rest, done, of=node_plugin)
    assert (told["actions"], told["queries"]) == (["set", "drain"], ["one", "two"])
    assert told["diff"] == {"before": "full", "after": "gone"}
    assert not told.get("failed")
    assert len(said) == 2
    calls.clear()
    for arguments in ({}, {"state": "absent"}, {"state": "disabled"}):
        act(monkeypatch, calls, Task(**arguments), {"changed": False}, of=node_plugin)
    assert calls == [{}, {"state": "absent"}, {"state": "disabled"}], "nothing else is waited for in pieces"
