# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A node as faults see it: one process of the cluster and what it has started. What it is made of they do not know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from errors import DidNotHappen
from network import Network
from reach import Machine

BUSY_SECONDS = 3600
"""Longer than any fault: what makes a machine busy ends by itself when nobody ends it."""
LOOP = ("timeout", str(BUSY_SECONDS), "sh", "-c", "while :; do :; done")
BUSY = "citus-ha-chaos-busy"
"""What makes a machine busy is named after it."""


class Host(ABC):
    """Where a node lives, and what can be done to it there."""

    needs: ClassVar[tuple[str, ...]]
    """The programs that its machine must have."""

    def __init__(self, name: str, instance: str, machine: Machine, network: Network) -> None:
        self.name = name
        self._instance = instance
        """What its machine calls it."""
        self.machine = machine
        self.network = network

    @abstractmethod
    def within(self, *argv: str) -> list[str]:
        """What the machine runs, to run a command in the node as the node's user."""

    @abstractmethod
    def running(self) -> bool:
        """Whether it runs and is not frozen."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL for everything in it at once; it stays away until it is started.

        :raises DidNotHappen: it is still there.
        """

    @abstractmethod
    def start(self) -> None:
        """Start it, if it does not run."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process in it, in the midst of whatever it does.

        :raises DidNotHappen: one of them goes on.
        """

    @abstractmethod
    def thaw(self) -> None:
        """Let every process in it go on, whoever stopped it."""

    @abstractmethod
    def mend_network(self) -> None:
        """As if nothing had been done to its network."""

    @abstractmethod
    def make_busy(self) -> None:
        """Loops beside it that want twice the machine's CPUs, each with as much of them as a server gets."""

    @abstractmethod
    def make_idle(self) -> None:
        """End them."""

    def command(self, *argv: str) -> list[str]:
        """What runs here, to run a command in the node as the node's user."""
        return self.machine.command(*self.within(*argv))

    def inside(self, *argv: str) -> str:
        """Standard output of a command in the node; empty when it cannot run there."""
        return self.machine.run(*self.within(*argv)).stdout

    def must(self, *argv: str) -> str:
        """Standard output of a command in the node.

        :raises DidNotHappen: it cannot run there, or fails.
        """
        return self._checked(" ".join(argv), self.within(*argv))

    def _do(self, what: str, script: str, *arguments: str) -> str:
        """Standard output of a shell script as root on the machine; its $1 is what that calls the node.

        :raises DidNotHappen: it fails.
        """
        return self._checked(what, ["sh", "-c", script, "sh", self._instance, *arguments])

    def _checked(self, what: str, argv: list[str]) -> str:
        ran = self.machine.run(*argv)
        if ran.returncode != 0:
            said = (ran.stderr or ran.stdout).strip()
            raise DidNotHappen(f"{what} on {self.name} ended with {ran.returncode}: {said}")
        return ran.stdout
