# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""Clients that wait at their poolers for planned work: when it begins, and when they go on, whatever happens."""

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
from ansible_collections.citus_ha.cluster.plugins.module_utils import _entrance, _held, _pgbouncer
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    ConnectionFailed,
    InvalidInput,
    Refused,
    ServerError,
    TimedOut,
)
from ansible_collections.citus_ha.cluster.plugins.module_utils._patroni_cluster import Cluster, Member
from ansible_collections.citus_ha.cluster.plugins.modules import patroni_restart, patroni_switchover


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
    """A console of the databases app and app_ro that remembers what it was told; ``paused`` are named, or C(all)."""

    def __init__(self, *paused: str) -> None:
        self.said: list[str] = []
        self.paused_now = set(paused)

    def _run(self, command: str) -> list[dict[str, Any]]:
        verb, _space, what = command.replace('"', "").partition(" ")
        if command == "SHOW STATE":
            return [{"key": "paused", "value": "yes" if "all" in self.paused_now else "no"}]
        if command == "SHOW DATABASES":
            return [{"name": name, "paused": int(name in self.paused_now)} for name in ("app", "app_ro")]
        self.said.append(command)
        if verb == "PAUSE":
            self.paused_now.add(what or "all")
        elif (what or "all") in self.paused_now:
            self.paused_now.remove(what or "all")
        else:
            raise ServerError("it is not paused")
        return []


def work_in_vain(console: FakeConsole, *paused: str) -> None:
    assert console.paused_now == set(paused)
    raise RuntimeError("failed")


@pytest.mark.parametrize(
    ("databases", "paused", "said"),
    [
        ([], ["all"], ["PAUSE", "RESUME"]),
        (["app_ro"], ["app_ro"], ['PAUSE "app_ro"', 'RESUME "app_ro"']),
        (["app", "app_ro"], ["app", "app_ro"], ['PAUSE "app"', 'PAUSE "app_ro"', 'RESUME "app"', 'RESUME "app_ro"']),
    ],
)
def test_clients_go_on_although_the_work_failed(databases: list[str], paused: list[str], said: list[str]) -> None:
    console = FakeConsole()
    with pytest.raises(RuntimeError, match="failed"), console.paused(1, 5, databases):
        work_in_vain(console, *paused)
    assert console.paused_now == set() and sorted(console.said) == sorted(said)


@pytest.mark.parametrize("paused", ["all", "app"])
def test_a_pause_of_somebody_else_is_left_alone(paused: str) -> None:
    console = FakeConsole(paused)
    with pytest.raises(Refused, match=r"paused already \((app|all databases)\)"), console.paused(1, 5, ["app_ro"]):
        pass
    assert console.said == [] and console.paused_now == {paused}


def test_clients_who_go_on_already_need_no_word() -> None:
    console = FakeConsole()
    console.resume(["app_ro"])
    console.resume()
    assert console.said == ['RESUME "app_ro"', "RESUME"], "each was refused, and that is no failure"


def test_readers_may_be_held_longer_than_everybody_else() -> None:
    console = FakeConsole()
    with console.paused(1, 5, ["app_ro"]):
        with console.paused(1, 5, but=["app_ro"]):
            assert console.paused_now == {"app_ro", "all"}
        assert console.paused_now == {"app_ro"}
    assert console.paused_now == set()


class Never(FakeConsole):
    """A transaction of the database app_ro that does not end."""

    def _run(self, command: str) -> list[dict[str, Any]]:
        answer = super()._run(command)
        if command == 'PAUSE "app_ro"':
            time.sleep(2)
        return answer


def test_a_transaction_that_does_not_end_keeps_nobody_waiting() -> None:
    console = Never()
    with (
        pytest.raises(TimedOut, match=r"transactions open after 0\.1 seconds"),
        console.paused(0.1, 5, ["app", "app_ro"]),
    ):
        pass
    assert console.paused_now == set()


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


class Server:
    """A session with a server of the coordinator on which pooler sessions show at so many looks; -1: it breaks."""

    where = "here"

    def __init__(self, looks: int = 0, standby: bool = False) -> None:
        self.looks = looks
        self.standby = standby
        self.closed = False

    def value(self, _statement: str) -> bool:
        return self.standby

    def query(self, _statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        assert values == {"poolers": ["pgbouncer-1"]}
        if self.looks < 0:
            raise ConnectionFailed("broken.")
        self.looks -= self.looks > 0
        row = {"pid": 7, "usename": "app", "client": "10.0.0.9", "application_name": "", "seconds": 3, "pooled": True}
        return [row] if self.looks else []

    def close(self) -> None:
        self.closed = True


def entrance(
    monkeypatch: pytest.MonkeyPatch,
    lock: AbstractContextManager[None] | None = None,
    **servers: Server,
) -> _entrance.Entrance:
    """The server behind the socket ``here``, on which the lock behaves so, and others by their names."""

    def connect(params: dict[str, Any]) -> Server:
        name = params["login_host"]
        if name not in servers:
            raise ConnectionFailed(f"{name} does not answer.")
        assert name == "here" or (params["login_port"], params["ssl_cert"]) == (5433, "node.crt")
        return servers[name]

    servers.setdefault("here", Server())
    monkeypatch.setattr(_entrance._connection, "connect", connect)
    monkeypatch.setattr(_entrance._lock, "exclusive", lambda *_arguments: lock or nullcontext())
    params = {"socket_dir": "here", "socket_port": 5432, "poolers": ["pgbouncer-1"], "drain_timeout": 0.5}
    tls = {"ssl_mode": "verify-full", "ca_cert": "ca.crt", "client_cert": "node.crt", "client_key": "node.key"}
    return _entrance.Entrance(params | tls | {"standbys": ["postgresql://there:5433", "postgresql://away:5433"]})


def test_the_work_begins_when_the_poolers_have_let_go_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Server(looks=2), Server(looks=4)
    entrance(monkeypatch, here=here, there=there).wait_for_silence()
    assert (here.looks, there.looks, there.closed, here.closed) == (0, 0, True, False)


def test_a_standby_whose_readers_do_not_end_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TimedOut, match=r"process 7 of app from 10\.0\.0\.9 \(through a pooler that is not paused yet\)"
    ):
        entrance(monkeypatch, there=Server(looks=10**6)).wait_for_silence()


def test_only_a_standby_may_break(monkeypatch: pytest.MonkeyPatch) -> None:
    entrance(monkeypatch, there=Server(looks=-1)).wait_for_silence()
    with pytest.raises(ConnectionFailed, match="broken"):
        entrance(monkeypatch, here=Server(looks=-1)).wait_for_silence()


def test_who_writes_does_not_enter_through_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="here is a standby"):
        entrance(monkeypatch, here=Server(standby=True)).refuse_standby()
    entrance(monkeypatch).refuse_standby()


class Taken(AbstractContextManager[None]):
    """A lock that somebody else has."""

    def __enter__(self) -> None:
        raise TimedOut("the lock is held by process 7.")

    def __exit__(self, *_error: object) -> None:
        """Nobody gets here."""


def test_another_switchover_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(Refused, match="Another switchover or restart is running: the lock is held by process 7"),
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


class Port:
    """A port of HAProxy that leads to these servers, at one look after the other, and to the last ones for ever."""

    def __init__(self, *servers: str) -> None:
        self.answers = [frozenset(names.split()) for names in servers]

    def servers(self, _waited: float) -> frozenset[str]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def follow(old: Api, new: Api, port: Port | None = None) -> str | None:
    """A pooler's half, which gives the leader's no time."""
    succession = patroni_switchover.Succession(cast(Any, {"a": old, "b": new}), "a", cast(Any, port))
    _held.follow(succession, time.monotonic(), 0, 0.5)
    return succession.new_leader


def test_clients_go_on_when_the_leader_still_leads_though_it_did_not_answer_at_once() -> None:
    with pytest.raises(TimedOut, match="a still leads"):
        follow(Api(SILENCE, LEADS), Api(LEADS_NOT))


def test_who_has_stepped_down_once_is_not_asked_again() -> None:
    with pytest.raises(TimedOut, match="no new leader"):
        follow(Api(LEADS_NOT, LEADS), Api(LEADS_NOT))
    assert follow(Api(LEADS_NOT), Api(LEADS_NOT, SILENCE, LEADS)) == "b"


def test_clients_go_on_when_the_port_leads_to_the_new_leader_and_to_nobody_else() -> None:
    assert follow(Api(LEADS_NOT), Api(LEADS), Port("a", "", "a b", "b")) == "b"
    with pytest.raises(TimedOut, match="no new leader"):
        follow(Api(LEADS_NOT), Api(LEADS), Port("a b"))


@pytest.mark.parametrize(
    ("statuses", "patience", "seen"),
    [([None, "starting", "running", "running"], 5, 3), ([None, None], 0.15, 2)],
)
def test_readers_are_held_until_the_old_leader_is_a_standby(
    monkeypatch: pytest.MonkeyPatch, statuses: list[str | None], patience: float, seen: int
) -> None:
    old = Api(LEADS_NOT)
    told = [None if state is None else {"role": "replica", "state": state} for state in statuses]
    api = Restarting(*told)
    monkeypatch.setattr(old, "status", api.status, raising=False)
    monkeypatch.setattr(_held, "READERS_SECONDS", patience)
    monkeypatch.setattr(FakeConsole, "log_in_again", lambda _self: None)
    console = FakeConsole()
    succession = patroni_switchover.Succession(cast(Any, {"a": old, "b": Api(LEADS)}), "a", None)
    params = {"drain_timeout": 1, "wait_timeout": 10, "start_at": None}
    assert _held.hold(console, succession, params, readers=["app_ro"]) < 1
    assert console.said == ['PAUSE "app_ro"', "PAUSE", "RESUME", 'RESUME "app_ro"']
    assert console.paused_now == set() and len(api.statuses) == len(statuses) - min(seen, len(statuses) - 1)


@pytest.mark.parametrize(
    ("databases", "readers", "said"),
    [
        (["new_ro"], [], []),
        (["app_ro", "new_ro"], [], ['PAUSE "app_ro"', 'RESUME "app_ro"']),
        ([], ["new_ro"], ["PAUSE", "RESUME"]),
    ],
)
def test_a_database_that_pgbouncer_does_not_have_yet_has_nobody_to_hold(
    monkeypatch: pytest.MonkeyPatch, databases: list[str], readers: list[str], said: list[str]
) -> None:
    monkeypatch.setattr(FakeConsole, "log_in_again", lambda _self: None)
    console = FakeConsole()
    succession = patroni_switchover.Succession(cast(Any, {"a": Api(LEADS_NOT), "b": Api(LEADS)}), "a", None)
    params = {"drain_timeout": 1, "wait_timeout": 10, "start_at": None}
    monkeypatch.setattr(succession, "settled", lambda: True)
    _held.hold(console, succession, params, databases, readers)
    assert console.said == said


class Restarting:
    """A member whose API tells these of its server, one after the other, and the last one for ever; None: no answer."""

    def __init__(self, *statuses: dict[str, str] | None) -> None:
        self.statuses = list(statuses)

    def status(self) -> dict[str, str]:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            raise SILENCE
        return status


OLD = {"postmaster_start_time": "monday", "state": "running", "role": "replica", "replication_state": "streaming"}
NEW = OLD | {"postmaster_start_time": "tuesday"}
STARTING = {"state": "starting", "role": "replica"}
ALONE = {"postmaster_start_time": "tuesday", "state": "running", "role": "replica"}


def restart(port: Port | None, *statuses: dict[str, str] | None) -> int:
    """A pooler's half of the restart of b; how many of the statuses it did not have to see."""
    api = Restarting(OLD, *statuses)
    renewal = patroni_restart.Renewal("b", cast(Any, api), cast(Any, port))
    _held.follow(renewal, time.monotonic(), 0.3, 0.5)
    return len(api.statuses) - 1


@pytest.mark.parametrize("port", [None, Port("", "b"), Port("a"), Port("a b")])
def test_clients_go_on_when_the_server_is_back_and_the_port_leads_to_any(port: Port | None) -> None:
    assert restart(port, OLD, None, STARTING, ALONE, NEW, NEW, NEW) <= 2


def test_clients_go_on_when_nothing_has_been_restarted() -> None:
    with pytest.raises(TimedOut, match=r"b has not restarted, 0\.3 seconds after"):
        restart(Port("b"), OLD)


def test_clients_go_on_with_another_server_when_theirs_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimedOut, match="b did not come back"):
        restart(Port("a"), OLD, None)
    monkeypatch.setattr(patroni_restart, "LOYALTY", 0.2)
    for elsewhere, status in ((Port("a"), None), (Port("b", "a b", "a"), STARTING)):
        restart(elsewhere, OLD, status)
    for nowhere in (None, Port(""), Port("a b")):
        with pytest.raises(TimedOut, match="b did not come back"):
            restart(nowhere, OLD, None)


COORDINATOR = Cluster(
    (
        Member("a", "leader", "running", "a", timeline=3),
        Member("b", "sync_standby", "streaming", "b", timeline=3, lag=0),
    )
)


def called(monkeypatch: pytest.MonkeyPatch, taken: _entrance.Entrance, module: Any, **params: Any) -> Any:
    """The server's half of a module, as a dry run."""
    client = SimpleNamespace(cluster=lambda: COORDINATOR, config=lambda: {}, at=lambda url: url)
    monkeypatch.setattr(module._patroni, "client", lambda _params: client)
    monkeypatch.setattr(module, "Entrance", lambda _params: taken)
    half = {patroni_switchover: patroni_switchover.lead, patroni_restart: patroni_restart.serve}[module]
    return half(cast(Any, SimpleNamespace(params=params, check_mode=True)))


@pytest.mark.parametrize("socket_dir", [None, "here"])
def test_a_dry_run_says_that_another_switchover_is_running(
    monkeypatch: pytest.MonkeyPatch, socket_dir: str | None
) -> None:
    taken = entrance(monkeypatch, Taken())
    params = {"candidate": "b", "force": False, "max_lag": 100, "socket_dir": socket_dir}
    with pytest.raises(Refused, match="Another switchover") if socket_dir else nullcontext():
        assert called(monkeypatch, taken, patroni_switchover, **params)["new_leader"] == "b"


def test_a_dry_run_of_a_restart_refuses_what_could_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    standby = entrance(monkeypatch, here=Server(standby=True))
    assert called(monkeypatch, standby, patroni_restart, member="b", databases=["app_ro"])["changed"]
    with pytest.raises(Refused, match="here is a standby"):
        called(monkeypatch, standby, patroni_restart, member="a", databases=[])
    with pytest.raises(InvalidInput, match=r"no member c\. Nothing was changed\."):
        called(monkeypatch, standby, patroni_restart, member="c", databases=[])
    with pytest.raises(Refused, match="switchover or restart is running"):
        called(monkeypatch, entrance(monkeypatch, Taken()), patroni_restart, member="b", databases=[])
