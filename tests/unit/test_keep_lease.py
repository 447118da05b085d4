# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A lease is given up when the last process of its server is dead, and by nothing that only looks like death."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/postgres/files/keep_lease.py"
TTL = "6"
# What of Patroni the program uses, with a DCS that is a folder: the file "leader" says who leads and by which
# lease, "pause" that the group is in maintenance, "stuck" that Patroni's library waits, and "revoked" gets what was
# given up.
CONFIG = """
class Config:
    def __init__(self, folder):
        self.folder = folder
    def copy(self):
        return {"name": "worker1-1", "folder": self.folder}
"""
DCS = """
import time
from pathlib import Path
from types import SimpleNamespace as Some
class Dcs:
    def __init__(self, folder):
        self.folder = folder
        self._client = self
    def get_cluster(self):
        name, lease = (self.folder / "leader").read_text().split()
        leader = None if name == "nobody" else Some(name=name, session=lease)
        return Some(leader=leader, config=Some(data={"pause": True} if (self.folder / "pause").exists() else {}))
    def call_rpc(self, method, fields):
        with (self.folder / "revoked").open("a") as file:
            file.write(f"{method} {fields['ID']}\\n")
def get_dcs(settings):
    assert settings["patronictl"] is True
    (Path(settings["folder"]) / "asked").touch()
    while (Path(settings["folder"]) / "stuck").exists():
        time.sleep(0.1)
    return Dcs(Path(settings["folder"]))
"""


class Server:
    """A folder of configuration, who holds its lock, and what was given up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.leads("worker1-1", "17")

    def leads(self, name: str, lease: str) -> None:
        """Write into the DCS who leads."""
        (self.folder / "leader").write_text(f"{name} {lease}")

    def start(self, script: str = "exec sleep 60") -> subprocess.Popen[bytes]:
        """A process of the server, with the lock as the roles give it."""
        command = ["flock", "--shared", "--no-fork", str(self.folder), "sh", "-c", script]
        process = subprocess.Popen(command, start_new_session=True)
        self.processes.append(process)
        while self.free():
            time.sleep(0.01)
        return process

    def free(self) -> bool:
        """Whether nobody holds the lock."""
        command = ["flock", "--nonblock", "--exclusive", str(self.folder), "true"]
        return subprocess.run(command, check=False).returncode == 0

    def revoked(self) -> str:
        """What was given up."""
        file = self.folder / "revoked"
        return file.read_text() if file.exists() else ""

    def end(self) -> None:
        """End whatever is left."""
        for process in self.processes:
            for pid in (process.pid, -process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that leads, with the program beside it."""
    library, folder = tmp_path / "library", tmp_path / "postgres"
    (library / "patroni").mkdir(parents=True)
    folder.mkdir()
    (library / "patroni/__init__.py").touch()
    (library / "patroni/config.py").write_text(CONFIG)
    (library / "patroni/dcs.py").write_text(DCS)
    made = Server(folder)
    environment = {**os.environ, "PYTHONPATH": str(library)}
    keeper = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), TTL], env=environment)
    try:
        yield made
        keeper.terminate()
        assert keeper.wait(10) == 0, "it ends when it is told to"
    finally:
        keeper.kill()
        keeper.wait(10)
        made.end()


def within(seconds: float, what: Callable[[], bool]) -> bool:
    """Whether it is so some time."""
    end = time.monotonic() + seconds
    while not (so := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return so


def soon(what: Callable[[], bool]) -> bool:
    """Whether it is so within ten seconds."""
    return within(10, what)


def never(what: Callable[[], bool]) -> bool:
    """Whether it is not so for longer than the program needs."""
    return not within(1, what)


def watched(server: Server) -> None:
    """Give the program the time to see that the server lives."""
    time.sleep(0.5)


def test_a_dead_leaders_lease_is_given_up_once_each_time_it_dies(server: Server) -> None:
    process = server.start()
    watched(server)
    process.kill()
    assert soon(lambda: server.revoked() == "/lease/revoke 17\n")
    server.leads("worker1-1", "18")
    assert never(lambda: server.revoked().count("\n") > 1), "that may be one that is about to start"
    process = server.start()
    watched(server)
    process.kill()
    assert soon(lambda: server.revoked() == "/lease/revoke 17\n/lease/revoke 18\n")


def test_a_server_that_stands_still_keeps_it(server: Server) -> None:
    process = server.start()
    watched(server)
    process.send_signal(signal.SIGSTOP)
    assert never(lambda: server.revoked() != "")


def test_a_server_of_which_a_process_lives_keeps_it(server: Server) -> None:
    """Patroni alone is dead, PostgreSQL is not."""
    process = server.start("sleep 60 & wait")
    watched(server)
    process.kill()
    process.wait(10)
    assert never(lambda: server.revoked() != "")
    os.killpg(process.pid, signal.SIGKILL)
    assert soon(lambda: server.revoked() == "/lease/revoke 17\n")


@pytest.mark.parametrize("leader", ["worker1-2", "nobody"])
def test_the_lease_of_another_is_left_alone(server: Server, leader: str) -> None:
    process = server.start()
    watched(server)
    server.leads(leader, "19")
    process.kill()
    assert never(lambda: server.revoked() != "")


def test_nobody_shall_lead_instead_during_maintenance(server: Server) -> None:
    process = server.start()
    watched(server)
    (server.folder / "pause").touch()
    process.kill()
    assert never(lambda: server.revoked() != "")


def test_a_dcs_that_does_not_answer_is_asked_again(server: Server) -> None:
    process = server.start()
    watched(server)
    (server.folder / "leader").rename(server.folder / "away")
    process.kill()
    assert never(lambda: server.revoked() != "")
    (server.folder / "away").rename(server.folder / "leader")
    assert soon(lambda: server.revoked() == "/lease/revoke 17\n")


def test_a_server_is_never_kept_from_starting_for_long(server: Server) -> None:
    """Patroni's library waits for the DCS for ever."""
    process = server.start()
    watched(server)
    (server.folder / "stuck").touch()
    process.kill()
    process.wait(10)
    assert soon((server.folder / "asked").exists)
    assert not server.free()
    assert within(15, server.free)


def test_it_ends_trying_when_a_lease_has_run_out(server: Server) -> None:
    process = server.start()
    watched(server)
    (server.folder / "leader").rename(server.folder / "away")
    process.kill()
    assert not within(float(TTL) + 2, lambda: server.revoked() != "")
    (server.folder / "away").rename(server.folder / "leader")
    assert never(lambda: server.revoked() != "")


def test_a_folder_that_was_replaced_says_nothing_of_the_server(server: Server) -> None:
    """It may have been started with the new one, whose lock is another."""
    process = server.start()
    watched(server)
    old = server.folder.rename(server.folder.with_name("old"))
    shutil.copytree(old, server.folder)
    process.kill()
    process.wait(10)
    assert never(lambda: server.revoked() != "")
    process = server.start()
    watched(server)
    process.kill()
    assert soon(lambda: server.revoked() == "/lease/revoke 17\n")


def test_before_it_has_seen_the_server_alive_it_does_nothing(server: Server) -> None:
    """It may run beside a server that was started before there was a lock."""
    assert never(lambda: server.revoked() != "")
