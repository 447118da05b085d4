# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Machines, and how commands get there as root: directly on this one, over SSH on all others."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from errors import Unreachable

PATIENCE = 120
"""Seconds that a command may take."""
NO_END = 124
"""Exit code of one that took longer, as timeout(1) has it."""
HELLO = "citus_ha"


@dataclass(frozen=True)
class Login:
    """How Ansible reaches a host: ``connection`` is the plugin, and what is empty is left to ssh."""

    connection: str
    host: str
    port: str = ""
    user: str = ""
    key: str = ""
    arguments: str = ""


class Machine:
    """This machine."""

    python = sys.executable
    ssh: tuple[str, str] | None = None
    """The address that this program comes from, as the machine sees it, and the port that it comes to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._become = [] if os.geteuid() == 0 else ["sudo", "-n", "--"]

    def command(self, *argv: str) -> list[str]:
        """What runs here, to run a command there as root."""
        return [*self._become, *argv]

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command as root, with ``text`` for its input, and wait for its end."""
        command = self.command(*argv)
        try:
            return subprocess.run(
                command, input=text, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            return subprocess.CompletedProcess(command, NO_END, "", str(error))

    def check(self, needs: tuple[str, ...]) -> None:
        """Whether commands get there, and those that faults are made with are there.

        :raises Unreachable: they do not, or one is not.
        """
        tried = self.run("sh", "-c", 'for name; do command -v "$name" >/dev/null || echo "$name"; done', "sh", *needs)
        if tried.returncode != 0:
            raise Unreachable(f"{self.name}: without NOPASSWD in sudoers nobody becomes root: {tried.stderr.strip()}")
        if missing := tried.stdout.split():
            raise Unreachable(f"{self.name} has no {', '.join(missing)}")


class Remote(Machine):
    """A machine over SSH. All commands share one connection, which is there as long as this program."""

    python = "python3"

    def __init__(self, name: str, login: Login, socket: Path) -> None:
        super().__init__(name)
        self._ssh = ssh(login, socket, "no")
        self._become = []
        with tempfile.TemporaryFile("w+") as complaints:
            # Of a session of its own: Ctrl-C is this program's. The end of its input is the end of it.
            self._first = subprocess.Popen(
                [*ssh(login, socket, "yes"), WHO],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
            )
            assert self._first.stdout
            said = next((line.split() for line in self._first.stdout if line.startswith(HELLO)), None)
            if said is None:
                complaints.seek(0)
                raise Unreachable(f"{name}: no login by ssh to {login.host}: {complaints.read().strip()}")
        _hello, uid, address, _port, _own, port = said
        self.ssh = (address, port)
        self._become = [] if uid == "0" else ["sudo", "-n", "--"]

    def command(self, *argv: str) -> list[str]:
        """The shell there gets each word as it is."""
        return [*self._ssh, shlex.join(super().command(*argv))]


# Whatever a shell says when it starts goes before the line.
WHO = f'echo "{HELLO} $(id -u) $SSH_CONNECTION"; exec cat'


def ssh(login: Login, socket: Path, master: str) -> list[str]:
    """The program and its arguments up to the host: those of the inventory, and before them, as the first counts, the
    socket that all commands share.

    :param master: ``yes`` makes the socket, ``no`` uses it.
    """
    return [
        *("ssh", "-T", "-o", f"ControlMaster={master}", "-o", f"ControlPath={socket}", "-o", "BatchMode=yes"),
        *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=20"),
        *shlex.split(login.arguments),
        *(("-p", login.port) if login.port else ()),
        *(("-l", login.user) if login.user else ()),
        *(("-i", login.key) if login.key else ()),
        login.host,
    ]


def reach(needs: Mapping[str, tuple[str, ...]], logins: Mapping[str, Login], sockets: Path) -> dict[str, Machine]:
    """The machines, side by side, each with the programs that it must have.

    :param sockets: a folder for those of ssh. :raises Unreachable: one of them or more; all are named.
    """

    def attempt(number: int, name: str) -> Machine | Unreachable:
        login = logins.get(name, Login("local", name))
        try:
            made = Machine(name) if login.connection == "local" else Remote(name, login, sockets / str(number))
            made.check(needs[name])
        except Unreachable as reason:
            return reason
        return made

    with ThreadPoolExecutor(max_workers=20) as pool:
        tried = dict(zip(needs, pool.map(attempt, range(len(needs)), needs), strict=True))
    if reasons := [str(reason) for reason in tried.values() if isinstance(reason, Unreachable)]:
        raise Unreachable("\n".join(reasons))
    return {name: machine for name, machine in tried.items() if isinstance(machine, Machine)}
