# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What can be done to a node, and how it is undone. Only the cluster's own containers are touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import docker
from nodes import DATA, DidNotHappen, Nodes

Action = Callable[[Nodes, str], None]

FILLER = "/var/lib/citus_ha/postgres/filler"
WAL_SEGMENT = 16
"""MiB that PostgreSQL may have given back meanwhile, after it found no room for more."""
SMALL = 4 * 2**30
"""Bytes of a data volume that is small enough to be meant for being filled."""

POSTMASTER = f"head -n 1 {DATA}/postmaster.pid"
# The youngest: the first process of a container takes no such signal from inside, and its work is done by another.
# The brackets keep the shell that says so from being meant, too.
PATRONI = "pgrep -n -f '[b]in/patroni'"

BUSY = "citus-ha-chaos-busy-"
BUSY_SECONDS = 3600
"""Longer than any fault: what makes the machine busy ends by itself when nobody ends it."""


class CannotHappen(Exception):
    """The machine or the cluster lacks what a fault needs; nothing was done."""


def signal_to(signal: str, process: str, *, children: bool = False) -> Action:
    """A signal to the process whose number a shell command finds, before it to its children if these are meant, too.

    It must be there. SIGKILL must have ended it, and SIGSTOP have stopped it.
    """

    def run(nodes: Nodes, node: str) -> None:
        pid = nodes.must(node, "sh", "-c", process).strip()
        born = nodes.must(node, "sh", "-c", STATE, "sh", pid).split()[1]
        told = [f"pkill -{signal} -P {pid}"] * children + [f"kill -{signal} {pid}"]
        nodes.inside(node, "sh", "-c", "; ".join(told))
        give_up = time.monotonic() + OBEY_SECONDS
        while True:
            state, now = [*nodes.inside(node, "sh", "-c", STATE, "sh", pid).split(), "", ""][:2]
            if now != born or state == OBEYED[signal]:
                return
            if time.monotonic() > give_up:
                raise DidNotHappen(f"SIG{signal} to process {pid} of {node} left it in state {state}")

    return run


OBEY_SECONDS = 5
"""A process in the kernel, or one that waits for a CPU, obeys a signal when it gets there."""
OBEYED = {"KILL": "Z", "STOP": "T"}
"""The state in which a signal leaves a process; a dead one may be gone instead."""
STATE = "awk '{print $3, $22}' /proc/$1/stat"
"""What a process does, and when it was born."""


def go_on(process: str) -> Action:
    """SIGCONT to the process and its children, if they are still there."""

    def run(nodes: Nodes, node: str) -> None:
        nodes.inside(node, "sh", "-c", f"pid=$({process}) && kill -CONT $pid && pkill -CONT -P $pid")

    return run


def kill_container(nodes: Nodes, node: str) -> None:
    """SIGKILL for everything in the node at once; it stays away until it is started."""
    nodes.container(node).kill()


def kill_machine(nodes: Nodes, node: str) -> None:
    """As if the machine had lost its power: nobody is left who could say that the server is dead."""
    for name in keeper_of(nodes, node):
        kill_container(nodes, name)
    kill_container(nodes, node)


def start_machine(nodes: Nodes, node: str) -> None:
    """The node, and what runs beside it."""
    for name in [node, *keeper_of(nodes, node)]:
        start_container(nodes, name)


def keeper_of(nodes: Nodes, node: str) -> list[str]:
    """The container that would give the node's lease up, if it has one."""
    return [name for name in nodes.keepers if name == f"{node}-lease"]


def start_container(nodes: Nodes, node: str) -> None:
    """Start it, if it does not run."""
    nodes.container(node).start()


def freeze(nodes: Nodes, node: str) -> None:
    """Stop every process in the node, in the midst of whatever it does."""
    nodes.container(node).pause()


def thaw(nodes: Nodes, node: str) -> None:
    """Let them go on."""
    with suppress(docker.errors.APIError):  # it is not frozen
        nodes.container(node).unpause()


def in_network_of(nodes: Nodes, node: str, *command: str) -> None:
    """Run a program of this machine in the node's network."""
    subprocess.run(["nsenter", "-t", str(nodes.pid(node)), "-n", *command], check=True, capture_output=True, timeout=30)


def drop(nodes: Nodes, node: str, *match: str) -> None:
    """Lose what matches, in both directions."""
    for chain, side in (("INPUT", "-s"), ("OUTPUT", "-d")):
        where = [side if word == "PEER" else word for word in match]
        interface = ["!", "-i" if chain == "INPUT" else "-o", "lo"]
        in_network_of(nodes, node, "iptables", "-A", chain, *interface, *where, "-j", "DROP")


def cut_off(nodes: Nodes, node: str) -> None:
    """Nobody reaches it, and it reaches nobody."""
    drop(nodes, node)


def cut_from_etcd(nodes: Nodes, node: str) -> None:
    """It does not reach etcd any more, but everybody else."""
    for member in nodes.etcd:
        drop(nodes, node, "PEER", nodes.address(member))


def cut_replication(nodes: Nodes, node: str) -> None:
    """Members of its group do not reach its PostgreSQL, nor it theirs; Patroni's API and everybody else do."""
    for other in nodes.groups[nodes.group_of(node)]:
        if other != node:
            for port in ("--dport", "--sport"):
                where = nodes.port(node if port == "--dport" else other, "postgres_port")
                drop(nodes, node, "PEER", nodes.address(other), "-p", "tcp", port, str(where))


def lose_packets(nodes: Nodes, node: str) -> None:
    """One packet in ten is lost."""
    drop(nodes, node, "-m", "statistic", "--mode", "random", "--probability", "0.1")


_LATE: dict[str, subprocess.Popen[str]] = {}
"""What makes a node's packets late, where the kernel cannot."""


def delay_packets(delay: float, jitter: float, loss: float) -> Action:
    """Every packet that leaves is late by ``delay`` plus or minus ``jitter`` milliseconds; ``loss`` percent are lost.

    By the kernel's netem, or else by a program of its own, which needs NetfilterQueue.
    """

    def run(nodes: Nodes, node: str) -> None:
        netem = ("netem", "delay", f"{delay}ms", f"{jitter}ms", "loss", f"{loss}%")
        try:
            in_network_of(nodes, node, "tc", "qdisc", "add", "dev", "eth0", "root", *netem)
        except subprocess.CalledProcessError as error:
            try:
                delay_by_program(nodes, node, str(delay), str(jitter), str(loss))
            except CannotHappen as reason:
                raise CannotHappen(f"netem: {error.stderr.decode().strip()}; {reason}") from error

    return run


def delay_by_program(nodes: Nodes, node: str, *arguments: str) -> None:
    """late_packets.py in the node's network, until that is mended."""
    program = Path(__file__).with_name("late_packets.py")
    started = _LATE[node] = subprocess.Popen(
        ["nsenter", "-t", str(nodes.pid(node)), "-n", sys.executable, str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout and started.stderr
    if not started.stdout.readline():
        raise CannotHappen(f"{program.name}: {started.stderr.read().strip().splitlines()[-1]}")
    queue = ("-j", "NFQUEUE", "--queue-num", "1", "--queue-bypass")
    in_network_of(nodes, node, "iptables", "-A", "OUTPUT", "!", "-o", "lo", *queue)


def mend_network(nodes: Nodes, node: str) -> None:
    """As if nothing had been done to the node's network."""
    if nodes.running(node):
        in_network_of(nodes, node, "iptables", "-F")
        with suppress(subprocess.CalledProcessError):  # there was no delay
            in_network_of(nodes, node, "tc", "qdisc", "del", "dev", "eth0", "root")
    if started := _LATE.pop(node, None):
        started.communicate()  # the end of its input is the end of it


def everywhere(action: Action) -> Action:
    """The same on every node."""

    def run(nodes: Nodes, _node: str) -> None:
        for node in nodes.all:
            action(nodes, node)

    return run


def together(*actions: Action) -> Action:
    """One after the other, at the same place."""

    def run(nodes: Nodes, node: str) -> None:
        for action in actions:
            action(nodes, node)

    return run


def fill_disk(nodes: Nodes, node: str) -> None:
    """Leave no byte on the data volume. Its size must be that of one made for it: 4 GiB at most."""
    size = int(nodes.inside(node, "sh", "-c", f"df --block-size=1 --output=size {DATA} | tail -n 1") or 0)
    if not 0 < size <= SMALL:
        raise CannotHappen(f"{node} has its data on {size / 2**30:.0f} GiB; only a volume of its own of 4 is filled")
    nodes.inside(node, "dd", "if=/dev/zero", f"of={FILLER}", "bs=1M")
    free = int(nodes.must(node, "sh", "-c", f"df --block-size=1M --output=avail {DATA} | tail -n 1"))
    if free > WAL_SEGMENT:
        raise DidNotHappen(f"{node} has {free} MiB free on the disk that was to be full")


def empty_disk(nodes: Nodes, node: str) -> None:
    """Give the space back."""
    nodes.inside(node, "rm", "-f", FILLER)


def make_busy(nodes: Nodes, node: str) -> None:
    """Containers beside the cluster's that want twice the machine's CPUs; Docker gives each as much as a server."""
    image = nodes.container(nodes.all[0]).image.id
    loop = ["timeout", str(BUSY_SECONDS), "sh", "-c", "while :; do :; done"]
    for number in range(2 * (os.cpu_count() or 1)):
        nodes.run_beside(f"{BUSY}{number}", image, loop)


def make_idle(nodes: Nodes, node: str) -> None:
    """Remove them."""
    nodes.remove_beside(BUSY)


def nothing(_nodes: Nodes, _node: str) -> None:
    """What is not undone, because the cluster must do that."""
