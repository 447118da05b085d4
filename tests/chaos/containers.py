# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A node that is a container of its machine's Docker engine."""

from __future__ import annotations

from collections.abc import Sequence

from hosts import BUSY, LOOP, Host
from network import Network
from reach import Machine

ENTER = (
    "sh",
    "-c",
    'pid=$(docker inspect --format "{{.State.Pid}}" "$0") && [ "$pid" -gt 0 ] && exec nsenter -t "$pid" -n "$@"',
)
"""A program of the machine in the container's network. A container that does not run has none."""
MAKE_BUSY = """
image=$(docker inspect --format '{{.Image}}' "$1") || exit
shift
for number in $(seq $((2 * $(nproc)))); do
    docker run --detach --rm --network none --name "BUSY-$number" "$image" "$@" || exit
done
""".replace("BUSY", BUSY)
MAKE_IDLE = f"docker ps --all --quiet --filter name=^/?{BUSY}- | xargs --no-run-if-empty docker rm --force"


def own_network(name: str, machine: Machine, peers: Sequence[str]) -> Network:
    """That of a container that does not share its machine's."""
    return Network(machine, [*ENTER, name], peers)


class Container(Host):
    """A container, of the name that the node has in the inventory."""

    needs = ("docker", "nsenter")

    def within(self, *argv: str) -> list[str]:
        """As the user that the container was made with."""
        return ["docker", "exec", "-i", self._instance, *argv]

    def running(self) -> bool:
        """A frozen container is paused."""
        seen = self.machine.run("docker", "inspect", "--format", "{{.State.Status}}", self._instance)
        return seen.stdout.strip() == "running"

    def kill(self) -> None:
        """Docker starts none again that was killed by its name."""
        self._do("kill", 'docker kill "$1"')

    def start(self) -> None:
        """Docker does nothing for one that runs."""
        self._do("start", 'docker start "$1"')

    def freeze(self) -> None:
        """By the kernel's freezer."""
        self._do("freeze", 'docker pause "$1"')

    def thaw(self) -> None:
        """Neither fails for one that is not frozen, nor for one that does not run."""
        self.machine.run("docker", "unpause", self._instance)
        self.inside("sh", "-c", "kill -CONT -1")

    def mend_network(self) -> None:
        """The network of a container that does not run has gone with it."""
        if self.running():
            self.network.mend()

    def make_busy(self) -> None:
        """Docker gives each container as much as a server."""
        self._do("busy", MAKE_BUSY, *LOOP)

    def make_idle(self) -> None:
        """Remove the containers."""
        self._do("idle", MAKE_IDLE)
