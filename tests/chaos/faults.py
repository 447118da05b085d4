# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What can go wrong with a node, and how it is undone. Only the cluster's own containers are touched."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import docker
from nodes import DATA, Nodes

Action = Callable[[Nodes, str], None]

POSTMASTER = f"head -n 1 {DATA}/postmaster.pid"


def shell(script: str) -> Action:
    """A command inside the node."""

    def run(nodes: Nodes, node: str) -> None:
        nodes.inside(node, "sh", "-c", script)

    return run


def kill_container(nodes: Nodes, node: str) -> None:
    """SIGKILL for everything in the node at once; it stays away until it is started."""
    nodes.container(node).kill()


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
                drop(nodes, node, "PEER", nodes.address(other), "-p", "tcp", port, "5432")


def lose_packets(nodes: Nodes, node: str) -> None:
    """One packet in ten is lost."""
    drop(nodes, node, "-m", "statistic", "--mode", "random", "--probability", "0.1")


def delay_packets(nodes: Nodes, node: str) -> None:
    """Every packet is late, some very. Needs the kernel's netem."""
    in_network_of(
        nodes, node, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "80ms", "40ms", "loss", "1%"
    )


def mend_network(nodes: Nodes, node: str) -> None:
    """As if nothing had been done to the node's network."""
    if nodes.running(node):
        in_network_of(nodes, node, "iptables", "-F")
        with suppress(subprocess.CalledProcessError):  # there was no delay
            in_network_of(nodes, node, "tc", "qdisc", "del", "dev", "eth0", "root")


def nothing(_nodes: Nodes, _node: str) -> None:
    """What is not undone, because the cluster must do that."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to the nodes that ``places`` stands for, and is undone after ``seconds``."""

    name: str
    begin: Action
    end: Action
    seconds: float
    places: tuple[str, ...]


# Seconds in which Patroni has noticed, so that a cluster that looks complete is so.
NOTICED = 8
SERVERS = ("coordinator", "worker", "standby")
STOP_POSTGRES = f"pkill -STOP -P $({POSTMASTER}); kill -STOP $({POSTMASTER})"
CONTINUE_POSTGRES = f"kill -CONT $({POSTMASTER}); pkill -CONT -P $({POSTMASTER})"

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill_postgres", shell(f"kill -KILL $({POSTMASTER})"), nothing, NOTICED, SERVERS),
        Fault("kill_patroni", shell("pkill -KILL -f bin/patroni"), nothing, NOTICED, SERVERS),
        Fault("stop_postgres", shell(STOP_POSTGRES), shell(CONTINUE_POSTGRES), 10, SERVERS),
        Fault("stop_patroni", shell("pkill -STOP -f bin/patroni"), shell("pkill -CONT -f bin/patroni"), 10, SERVERS),
        Fault("freeze_short", freeze, thaw, 5, (*SERVERS, "pooler", "etcd")),
        Fault("freeze_long", freeze, thaw, 40, SERVERS),
        Fault("kill_node", kill_container, start_container, 40, SERVERS),
        Fault("kill_node_short", kill_container, start_container, 5, ("pooler", "etcd")),
        Fault("cut_off", cut_off, mend_network, 40, SERVERS),
        Fault("cut_from_etcd", cut_from_etcd, mend_network, 40, SERVERS),
        Fault("cut_replication", cut_replication, mend_network, 20, ("coordinator", "worker")),
        Fault("lose_packets", lose_packets, mend_network, 20, SERVERS),
        Fault("delay_packets", delay_packets, mend_network, 20, SERVERS),
        Fault("etcd_lost_1", kill_container, start_container, 30, ("etcd*1",)),
        Fault("etcd_lost_2", kill_container, start_container, 60, ("etcd*2",)),
        Fault("etcd_lost_3", kill_container, start_container, 60, ("etcd*3",)),
        Fault("etcd_lost_long", kill_container, start_container, 300, ("etcd*3",)),
        Fault("kill_leader_and_standby", kill_container, start_container, 40, ("coordinator+worker_standby",)),
    )
}
# Planned work is a fault that must not be noticed: a playbook, its arguments.
PLANNED = {
    "switchover:coordinator": ("switchover", "-e", "group=coordinator"),
    "switchover:worker": ("switchover", "-e", "group={worker}"),
    "restart": ("restart",),
}
QUICK = (
    "switchover:worker",
    "kill_postgres:worker",
    "kill_postgres:coordinator",
    "switchover:coordinator",
    "kill_node:worker",
    "etcd_lost_1:etcd*1",
    "kill_patroni:coordinator",
    "cut_off:coordinator",
    "restart",
)


def every() -> list[str]:
    """All there are: fault and place, and planned work."""
    return [f"{fault.name}:{place}" for fault in FAULTS.values() for place in fault.places] + list(PLANNED)


def targets(nodes: Nodes, place: str, chance: random.Random) -> list[str]:
    """The nodes that a place stands for at this moment."""
    workers = [group for group in nodes.groups if group != "coordinator"]
    name, _star, count = place.partition("*")
    if place == "coordinator":
        return [nodes.leader("coordinator")]
    if place == "worker":
        return [nodes.leader(chance.choice(workers))]
    if place == "standby":
        return [nodes.standby(chance.choice(list(nodes.groups)))]
    if place == "coordinator+worker_standby":
        return [nodes.leader("coordinator"), nodes.standby(chance.choice(workers))]
    if place == "pooler":
        return [chance.choice(nodes.poolers)]
    if name == "etcd":
        return chance.sample(nodes.etcd, int(count or 1))
    raise KeyError(place)


@dataclass(frozen=True)
class Happened:
    """One fault as it was: from ``begun`` to ``ended``, and everybody well again at ``well``."""

    name: str
    nodes: tuple[str, ...]
    begun: float
    ended: float
    well: float
    problem: str = ""


def happen(
    nodes: Nodes, name: str, chance: random.Random, patience: float, troubles: Callable[[], list[str]]
) -> Happened:
    """Let a fault happen, undo it, and wait until the cluster is complete by itself and its clients are steady."""
    begun = time.time()
    problem = ""
    if name in PLANNED:
        worker = chance.choice([group for group in nodes.groups if group != "coordinator"])
        playbook, *arguments = (word.format(worker=worker) for word in PLANNED[name])
        code, output = nodes.play(playbook, *arguments)
        hit = [worker] if "worker" in name else ["coordinator"] if "coordinator" in name else ["all"]
        problem = "" if code == 0 else f"the playbook failed: {output[-1500:]}"
    else:
        fault_name, _colon, place = name.partition(":")
        fault = FAULTS[fault_name]
        hit = targets(nodes, place, chance)
        begun = time.time()
        try:
            for node in hit:
                fault.begin(nodes, node)
            time.sleep(fault.seconds)
        finally:
            for node in hit:
                fault.end(nodes, node)
    ended = time.time()
    deadline = time.monotonic() + patience
    while (lacking := [*nodes.lacking(), *troubles()]) and time.monotonic() < deadline:
        time.sleep(1)
    if lacking:
        problem += f" after {patience:g} seconds: {'; '.join(lacking)}"
    return Happened(name, tuple(hit), begun, ended, time.time(), problem.strip())


def undo_everything(nodes: Nodes) -> None:
    """Whatever was interrupted: no process stopped, no container away, no rule in a network."""
    for node in nodes.all:
        with suppress(docker.errors.APIError):
            thaw(nodes, node)
            start_container(nodes, node)
            nodes.inside(node, "sh", "-c", "kill -CONT -1")
        with suppress(subprocess.CalledProcessError, OSError):
            mend_network(nodes, node)


def order(names: list[str], chance: random.Random, each: int) -> Iterator[str]:
    """Each fault ``each`` times in an order of chance; without a number for ever, all of them again and again."""
    rounds = 0
    while not each or rounds < each:
        shuffled = list(names)
        chance.shuffle(shuffled)
        yield from shuffled
        rounds += 1
