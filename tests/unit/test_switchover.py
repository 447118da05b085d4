# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""Who may take a group's leadership over, and that no pooler stays paused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _pgbouncer, _switchover
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_switchover

SYNCHRONOUS = {"synchronous_mode": True}


def member(name: str, role: str = "sync_standby", state: str = "streaming", **more: Any) -> Member:
    more = {"timeline": 3, "lag": None if role == "leader" else 0} | more
    return Member(name, role, "running" if role == "leader" else state, f"http://{name}:8008", **more)


def group(*members: Member, **more: Any) -> Cluster:
    return Cluster((member("a", "leader"), *members), scope="shop", **more)


def plan(
    cluster: Cluster, candidate: str | None = None, force: bool = False, config: Any = None
) -> _switchover.Handover | None:
    return _switchover.plan(cluster, SYNCHRONOUS if config is None else config, candidate, force, max_lag=100)


@pytest.mark.parametrize("candidate", [None, "b"])
def test_a_synchronous_standby_takes_over(candidate: str | None) -> None:
    assert plan(group(member("b")), candidate) == _switchover.Handover("a", "b")


def test_without_a_candidate_the_first_that_may() -> None:
    cluster = group(member("b", "replica"), member("c", state="starting"), member("d"))
    assert plan(cluster) == _switchover.Handover("a", "d")


def test_who_leads_already_needs_nothing() -> None:
    assert plan(group(member("b")), "a") is None


@pytest.mark.parametrize("mode", ["quorum", True, "on"])
def test_an_asynchronous_standby_is_refused_in_synchronous_mode(mode: Any) -> None:
    with pytest.raises(Refused, match="asynchronous standby in synchronous mode"):
        plan(group(member("b", "replica")), "b", config={"synchronous_mode": mode})


@pytest.mark.parametrize("config", [{}, {"synchronous_mode": False}, {"synchronous_mode": "off"}])
def test_an_asynchronous_standby_may_without_synchronous_mode(config: dict[str, Any]) -> None:
    assert plan(group(member("b", "replica")), "b", config=config) == _switchover.Handover("a", "b")


def test_a_quorum_standby_may() -> None:
    cluster = group(member("b", "quorum_standby"))
    assert plan(cluster, config={"synchronous_mode": "quorum"}) == _switchover.Handover("a", "b")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (group(), "has no standby"),
        (group(member("b", state="starting")), "it is 'starting', not streaming"),
        (group(member("b", timeline=2)), "timeline 2, the leader on 3"),
        (group(member("b", lag=None)), "its lag is not known yet"),
        (group(member("b", lag=101)), r"it lags 101 bytes \(max_lag is 100\)"),
        (group(member("b", tags={"nofailover": True})), "tagged nofailover"),
        (group(member("b"), paused=True), "paused for maintenance"),
        (group(member("b"), scheduled_switchover={"at": "12:00", "from": "a"}), "scheduled for 12:00"),
        (Cluster((member("a"), member("b")), scope="shop"), "no leader at the moment: another switchover"),
        (
            Cluster((Member("a", "leader", "stopping", ""), member("b")), scope="shop"),
            "the leader a, 'stopping': another switchover",
        ),
    ],
)
def test_what_is_refused(cluster: Cluster, words: str) -> None:
    for candidate in (None, "b") if cluster.member("b") else (None,):
        with pytest.raises(Refused, match=words) as refusal:
            plan(cluster, candidate)
        assert "Nothing was changed" in str(refusal.value)


def test_patronis_own_limit_of_a_lag_is_asked_beforehand() -> None:
    with pytest.raises(Refused, match=r"it lags 51 bytes \(Patroni's maximum_lag_on_failover is 50\)"):
        plan(group(member("b", lag=51)), config={"maximum_lag_on_failover": 50})


def test_an_unknown_member_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="no member z, only a, b"):
        plan(group(member("b")), "z")


def test_a_refusal_names_who_could() -> None:
    with pytest.raises(Refused, match="These could: c"):
        plan(group(member("b", "replica"), member("c")), "b")


@pytest.mark.parametrize(
    "cluster",
    [
        group(member("b", "replica", lag=10**6), paused=True),
        Cluster((member("b", "replica", lag=10**9),), scope="shop"),
    ],
)
def test_a_failover_takes_whom_it_is_told(cluster: Cluster) -> None:
    found = plan(cluster, "b", force=True)
    assert found is not None and found.candidate == "b"


def test_a_failover_that_patroni_would_refuse_is_refused_with_the_way_out() -> None:
    with pytest.raises(Refused, match=r"lags 1000000000 bytes, and a still leads.*\(1048576\)") as refusal:
        plan(group(member("b", "replica", lag=10**9)), "b", force=True)
    assert "Stop a's node first" in str(refusal.value.remedy)
    found = plan(group(member("b", lag=10**9)), "b", force=True, config={"maximum_lag_on_failover": 10**10})
    assert found is not None and found.candidate == "b"


# ---- nobody stays paused -------------------------------------------------------------------------


def in_a_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own, which ends with 7; the process's status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(7)
    return os.waitpid(child, 0)[1]


def guarded(
    tmp_path: Path, limit: float, work: Callable[[], None], resume: Callable[[], None] | None = None
) -> tuple[Path, int]:
    """Run ``work`` in a process under a guard whose ``resume`` leaves a file; the file, and the process's status."""
    resumed = tmp_path / "resumed"

    def half() -> None:
        with _pgbouncer._guard(resume or resumed.touch, limit) as dismiss:
            work()
            dismiss()

    return resumed, in_a_child(half)


def appears(path: Path, within: float = 5) -> bool:
    deadline = time.monotonic() + within
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def test_the_guard_leaves_a_half_alone_that_ends_by_itself(tmp_path: Path) -> None:
    resumed, _status = guarded(tmp_path, 30, lambda: None)
    assert not resumed.exists()  # the guard was waited for: it has ended, too


def test_the_guard_resumes_when_the_half_is_killed(tmp_path: Path) -> None:
    resumed, status = guarded(tmp_path, 30, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert appears(resumed)


def test_the_guard_resumes_when_the_half_takes_too_long(tmp_path: Path) -> None:
    resumed, _status = guarded(tmp_path, 0.05, lambda: time.sleep(0.5))
    assert resumed.exists()


def test_the_guard_insists_when_the_half_could_not_resume_and_pgbouncer_stands_still(tmp_path: Path) -> None:
    tried, resumed = tmp_path / "tried", tmp_path / "resumed"

    def resume() -> None:
        if not tried.exists():
            tried.touch()
            raise ConnectionFailed("no answer")
        resumed.touch()

    def fail() -> None:
        raise ConnectionFailed("no answer to RESUME")

    guarded(tmp_path, 30, fail, resume)
    assert tried.exists() and appears(resumed)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGPIPE])
def test_a_broken_connection_to_the_controller_ends_nothing(tmp_path: Path, number: signal.Signals) -> None:
    done = tmp_path / "done"

    def work() -> None:
        os.kill(os.getpid(), number)
        done.touch()

    resumed, _status = guarded(tmp_path, 30, work)
    assert done.exists() and not resumed.exists()


class FakeConsole(_pgbouncer.Console):
    """A console that only remembers what it was told."""

    def __init__(self, state: str = "no") -> None:
        self.said: list[str] = []
        self.state = state

    def _run(self, command: str) -> list[dict[str, Any]]:
        self.said.append(command)
        self.state = {"PAUSE": "yes", "RESUME": "no"}.get(command, self.state)
        return [{"key": "active", "value": "yes"}, {"key": "paused", "value": self.state}]


def switch_over_in_vain(console: FakeConsole) -> None:
    assert console.state == "yes"
    raise RuntimeError("failed")


def test_clients_go_on_although_the_switchover_failed() -> None:
    console = FakeConsole()
    with pytest.raises(RuntimeError, match="failed"), console.paused(1, 5):
        switch_over_in_vain(console)
    assert console.said == ["SHOW STATE", "PAUSE", "RESUME"]


def test_a_pause_of_somebody_else_is_left_alone() -> None:
    console = FakeConsole("yes")
    with pytest.raises(Refused, match="paused already"), console.paused(1, 5):
        pass
    assert console.said == ["SHOW STATE"]


class Pools(_pgbouncer.Console):
    """A console with a pool of each name that opens a session at the next look when it may; ``full`` never does."""

    def __init__(self, **sessions: int) -> None:
        self.sessions = sessions
        self.least = ["0"]

    def _run(self, command: str) -> list[dict[str, Any]]:
        if command == "SHOW CONFIG":
            return [{"key": "min_pool_size", "value": self.least[-1]}]
        if command.startswith("SET"):
            self.least.append(command.removeprefix("SET min_pool_size = "))
            return []
        assert command == "SHOW POOLS"
        for name, count in self.sessions.items():
            self.sessions[name] += name != "full" and count < int(self.least[-1])
        states = dict.fromkeys(("cl_waiting", "sv_active", "sv_idle", "sv_tested"), 0)
        return [
            {**states, "database": name, "user": "app", "cl_active": name != "idle", "sv_used": count}
            for name, count in {**self.sessions, "pgbouncer": 0}.items()
        ]


def test_every_pool_with_clients_logs_in_again_and_the_setting_is_as_before() -> None:
    console = Pools(app=3, app_ro=1, idle=0)
    console.log_in_again(5)
    assert console.least == ["0", "4", "0"]
    assert console.sessions["app"] == 4 and console.sessions["app_ro"] > 1


def test_a_pool_that_cannot_log_in_is_not_waited_for_long() -> None:
    console = Pools(full=40)
    begun = time.monotonic()
    console.log_in_again(0.1)
    assert time.monotonic() - begun < 1
    assert console.least == ["0", "41", "0"]
    Pools().log_in_again()


def test_the_setting_is_as_before_even_when_the_one_who_changed_it_is_killed(tmp_path: Path) -> None:
    raised, restored = tmp_path / "raised", tmp_path / "restored"

    class Killed(Pools):
        def _run(self, command: str) -> list[dict[str, Any]]:
            if command == "SET min_pool_size = 4":
                raised.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if command == "SET min_pool_size = 0" and raised.exists():
                restored.touch()
            return super()._run(command)

    assert os.WTERMSIG(in_a_child(lambda: Killed(app=3).log_in_again(5))) == signal.SIGKILL
    assert appears(restored)


def entrance(monkeypatch: pytest.MonkeyPatch, lock: AbstractContextManager[None]) -> _switchover.Entrance:
    """The coordinator's leader, on which the lock behaves so."""
    made = object.__new__(_switchover.Entrance)
    made._session = cast(Any, SimpleNamespace(value=lambda _statement: False, where="here"))
    monkeypatch.setattr(_switchover._lock, "exclusive", lambda *_arguments: lock)
    return made


class Taken(AbstractContextManager[None]):
    """A lock that somebody else has."""

    def __enter__(self) -> None:
        raise TimedOut("the lock is held by process 7.")

    def __exit__(self, *_error: object) -> None:
        """Nobody gets here."""


def test_another_switchover_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(Refused, match="Another switchover is running: the lock is held by process 7"),
        entrance(monkeypatch, Taken()).alone(),
    ):
        pass


def test_what_is_waited_for_in_vain_is_not_called_another_switchover(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimedOut, match="clients"), entrance(monkeypatch, nullcontext()).alone():
        raise TimedOut("a transaction of clients is open.")


class Api:
    """A member whose API gives these answers to "do you lead?", and the last one for ever."""

    def __init__(self, *answers: Exception | str) -> None:
        self.answers = list(answers)

    def json(self, _method: str, _path: str) -> dict[str, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"role": answer, "state": "running"}


SILENCE = ConnectionFailed("no answer.", "")
LEADS, LEADS_NOT = "primary", ServerError("503.", "", status=503)


def follow(old: Api, new: Api) -> str:
    """A pooler's half, which gives the leader's no time."""
    apis = cast(Any, {"a": old, "b": new})
    params = {"drain_timeout": -patroni_switchover.STEP_DOWN_GRACE, "wait_timeout": 0.5}
    return patroni_switchover._follow(apis, params, "a", None, time.monotonic())


def test_clients_go_on_when_the_leader_still_leads_though_it_did_not_answer_at_once() -> None:
    with pytest.raises(TimedOut, match="a still leads"):
        follow(Api(SILENCE, LEADS), Api(LEADS_NOT))


def test_who_has_stepped_down_once_is_not_asked_again() -> None:
    with pytest.raises(TimedOut, match="no new leader"):
        follow(Api(LEADS_NOT, LEADS), Api(LEADS_NOT))
    assert follow(Api(LEADS_NOT), Api(LEADS_NOT, SILENCE, LEADS)) == "b"


@pytest.mark.parametrize("socket_dir", [None, "/run/postgresql"])
def test_a_dry_run_says_that_another_switchover_is_running(
    monkeypatch: pytest.MonkeyPatch, socket_dir: str | None
) -> None:
    client = SimpleNamespace(cluster=lambda: group(member("b")), config=lambda: SYNCHRONOUS)
    monkeypatch.setattr(patroni_switchover._patroni, "client", lambda _params: client)
    taken = entrance(monkeypatch, Taken())
    monkeypatch.setattr(_switchover, "Entrance", lambda *_where: taken)
    params = {"candidate": "b", "force": False, "max_lag": 100, "socket_dir": socket_dir, "socket_port": 5432}
    dry_run = cast(Any, SimpleNamespace(params=params, check_mode=True))
    with pytest.raises(Refused, match="Another switchover") if socket_dir else nullcontext():
        assert patroni_switchover.lead(dry_run)["new_leader"] == "b"
