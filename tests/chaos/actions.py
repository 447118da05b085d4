# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What can be done to a node, and how it is undone. Only the cluster's own nodes are touched."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress

from errors import CannotHappen, DidNotHappen
from hosts import Host
from network import of_connections, of_peer
from nodes import DATA, Nodes

Action = Callable[[Nodes, str], None]

FILLER = "/var/lib/citus_ha/postgres/filler"
WRITES = "SELECT NOT pg_is_in_recovery() OR EXISTS (SELECT FROM pg_stat_wal_receiver)"
SEGMENTS = 100
"""Of the WAL, more than a server keeps to use them again."""
WAL_SEGMENT = 16
"""MiB that PostgreSQL may have given back meanwhile, after it found no room for more."""
SMALL = 4 * 2**30
"""Bytes of a data volume that is small enough to be meant for being filled."""

POSTMASTER = f"head -n 1 {DATA}/postmaster.pid"
# The youngest: the first process of a container takes no such signal from inside, and its work is done by another.
# The brackets keep the shell that says so from being meant, too.
PATRONI = "pgrep -n -f '[b]in/patroni'"


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


def kill(nodes: Nodes, node: str) -> None:
    """SIGKILL for everything in the node at once; it stays away until it is started."""
    nodes.host(node).kill()


def start(nodes: Nodes, node: str) -> None:
    """Start it, if it does not run."""
    nodes.host(node).start()


def kill_machine(nodes: Nodes, node: str) -> None:
    """As if the machine had lost its power: nobody is left who could say that the server is dead.

    It falls silent, where its network can be cut: no kernel is left that could end the connections of dead processes.
    """
    with suppress(CannotHappen):
        cut_off(nodes, node)
    for name in [*nodes.keeper_of(node), node]:
        kill(nodes, name)


def start_machine(nodes: Nodes, node: str) -> None:
    """The node, and what runs beside it."""
    mend_network(nodes, node)
    for name in [node, *nodes.keeper_of(node)]:
        start(nodes, name)


def freeze(nodes: Nodes, node: str) -> None:
    """Stop every process in the node, in the midst of whatever it does."""
    nodes.host(node).freeze()


def thaw(nodes: Nodes, node: str) -> None:
    """Let them go on."""
    nodes.host(node).thaw()


def cut_off(nodes: Nodes, node: str) -> None:
    """Nobody reaches it, and it reaches nobody."""
    nodes.host(node).network.drop("")


def cut_from_etcd(nodes: Nodes, node: str) -> None:
    """It does not reach etcd any more, but everybody else."""
    members = [of_peer(nodes.address(member)) for member in nodes.etcd]
    nodes.host(node).network.drop(*itertools.chain(*members))


def cut_replication(nodes: Nodes, node: str) -> None:
    """Members of its group do not reach its PostgreSQL, nor it theirs; Patroni's API and everybody else do."""
    own = nodes.port(node, "postgres_port")
    others = [name for name in nodes.groups[nodes.group_of(node)] if name != node]
    matches = [of_connections(nodes.address(name), own, nodes.port(name, "postgres_port")) for name in others]
    nodes.host(node).network.drop(*itertools.chain(*matches))


def lose_packets(nodes: Nodes, node: str) -> None:
    """One packet in ten is lost."""
    nodes.host(node).network.drop("-m statistic --mode random --probability 0.1")


def delay_packets(delay: float, jitter: float, loss: float) -> Action:
    """Packets that leave are late by ``delay`` plus or minus ``jitter`` milliseconds; ``loss`` percent are lost."""

    def run(nodes: Nodes, node: str) -> None:
        nodes.host(node).network.delay(delay, jitter, loss)

    return run


def mend_network(nodes: Nodes, node: str) -> None:
    """As if nothing had been done to the node's network."""
    nodes.host(node).mend_network()


def in_every(place: Callable[[Host], object], action: Action) -> Action:
    """The same in every network, or on every machine, of the cluster."""

    def run(nodes: Nodes, _node: str) -> None:
        for node in nodes.first_of_each(place):
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
    # Old segments of the WAL are used again, and would last for a while.
    leader = nodes.leader(nodes.group_of(node))
    for _segment in range(SEGMENTS):
        nodes.query(leader, "SELECT pg_switch_wal()")
        if nodes.query(node, WRITES) != "t":
            return
        time.sleep(0.2)
    raise DidNotHappen(f"{node} still writes to the disk that is full")


def empty_disk(nodes: Nodes, node: str) -> None:
    """Give the space back."""
    nodes.inside(node, "rm", "-f", FILLER)


def make_busy(nodes: Nodes, node: str) -> None:
    """Loops beside the node that want twice its machine's CPUs."""
    nodes.host(node).make_busy()


def make_idle(nodes: Nodes, node: str) -> None:
    """End them."""
    nodes.host(node).make_idle()


def nothing(_nodes: Nodes, _node: str) -> None:
    """What is not undone, because the cluster must do that."""
