# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What can go wrong, where, and for how long."""

from __future__ import annotations

import itertools
import math
import operator
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from actions import (
    PATRONI,
    POSTMASTER,
    Action,
    cut_from_etcd,
    cut_off,
    cut_replication,
    delay_packets,
    empty_disk,
    fill_disk,
    freeze,
    in_every,
    kill,
    kill_machine,
    lose_packets,
    make_busy,
    make_idle,
    mend_network,
    nothing,
    signal_to,
    start,
    start_machine,
    thaw,
    together,
)
from checker import Promise
from errors import CannotHappen, DidNotHappen
from nodes import KILLED, Nodes


@dataclass(frozen=True)
class Fault:
    """Something that happens to the nodes that ``places`` stands for, and is undone after ``seconds``.

    ``borne``: in so many seconds from its beginning nobody may take over, for nobody is dead.
    """

    name: str
    begin: Action
    end: Action
    seconds: float
    places: tuple[str, ...]
    borne: float = 0


ALWAYS = math.inf
# In every profile a lease that was just renewed lasts longer.
LEASE = 10
# Seconds in which Patroni has noticed, so that a cluster that looks complete is so.
NOTICED = 8
LEADERS = ("coordinator", "worker")
SERVERS = (*LEADERS, "standby")
OTHERS = ("pooler", "haproxy", "etcd")
PAIRS = ("coordinator+worker_standby", "worker+coordinator_standby")
STOP_PATRONI = signal_to("STOP", PATRONI)
# As between zones of a region that has a bad day.
MACHINE, NETWORK = operator.attrgetter("machine"), operator.attrgetter("network")
ALL_BUSY, ALL_IDLE = in_every(MACHINE, make_busy), in_every(MACHINE, make_idle)
BUSY_AND_LATE = together(ALL_BUSY, in_every(NETWORK, delay_packets(10, 5, 0.2)))
IDLE_AND_IN_TIME = together(in_every(NETWORK, mend_network), ALL_IDLE)

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill_postgres", signal_to("KILL", POSTMASTER), nothing, NOTICED, SERVERS),
        Fault("kill_patroni", signal_to("KILL", PATRONI), nothing, NOTICED, SERVERS),
        Fault("stop_postgres", signal_to("STOP", POSTMASTER, children=True), thaw, 10, SERVERS),
        Fault("stop_patroni", STOP_PATRONI, thaw, 10, SERVERS, ALWAYS),
        Fault("stop_patroni_long", STOP_PATRONI, thaw, 40, LEADERS, LEASE),
        Fault("freeze_short", freeze, thaw, 5, (*SERVERS, *OTHERS), ALWAYS),
        Fault("freeze_long", freeze, thaw, 40, SERVERS, LEASE),
        Fault("kill_node", kill, start, 40, SERVERS),
        Fault("kill_node_short", kill, start, 5, OTHERS),
        Fault("kill_machine", kill_machine, start_machine, 40, LEADERS),
        Fault("cut_off", cut_off, mend_network, 40, (*SERVERS, *OTHERS), LEASE),
        Fault("cut_from_etcd", cut_from_etcd, mend_network, 40, SERVERS, LEASE),
        Fault("cut_replication", cut_replication, mend_network, 20, LEADERS),
        Fault("lose_packets", lose_packets, mend_network, 20, (*SERVERS, *OTHERS)),
        Fault("delay_packets", delay_packets(80, 40, 1), mend_network, 20, (*SERVERS, *OTHERS)),
        Fault("disk_full", fill_disk, empty_disk, 20, SERVERS),
        Fault("etcd_lost_1", kill, start, 60, ("etcd*1",), borne=ALWAYS),
        Fault("etcd_lost_2", kill, start, 60, ("etcd*2",), borne=ALWAYS),
        Fault("etcd_lost_3", kill, start, 60, ("etcd*3",), borne=ALWAYS),
        Fault("etcd_lost_long", kill, start, 300, ("etcd*3",), borne=ALWAYS),
        Fault("busy", ALL_BUSY, ALL_IDLE, 300, ("machine",), borne=ALWAYS),
        Fault("busy_and_late", BUSY_AND_LATE, IDLE_AND_IN_TIME, 300, ("machine",), borne=ALWAYS),
        Fault("kill_leader_and_standby", kill, start, 40, PAIRS),
    )
}


@dataclass(frozen=True)
class Planned:
    """A playbook, whose work must not be noticed. It is about a group at the place that it is named with, or about all.

    ``killed``: it dies with everything that it has started on the controller, once it holds the clients.
    """

    playbook: str
    killed: bool = False


PLANNED = {
    "switchover:coordinator": Planned("switchover"),
    "switchover:worker": Planned("switchover"),
    "restart": Planned("restart"),
    "controller_killed:coordinator": Planned("switchover", killed=True),
    "controller_killed:worker": Planned("switchover", killed=True),
}
QUICK = (
    "switchover:worker",
    "kill_postgres:worker",
    "kill_postgres:coordinator",
    "switchover:coordinator",
    "controller_killed:worker",
    "kill_node:worker",
    "etcd_lost_1:etcd*1",
    "kill_patroni:coordinator",
    "cut_off:coordinator",
    "freeze_long:worker",
    "kill_node_short:pooler",
    "kill_leader_and_standby:coordinator+worker_standby",
    "restart",
)
PAUSE_LIMIT = 30
"""``cluster_hold_limit``: seconds after which clients go on, whatever became of the work that they wait for."""
UNNOTICED = 5
"""Seconds that writes may take longer while it is seen who leads, where nothing that they need is gone."""


OVER = 60
"""Seconds that writes may stand still after the end of any fault: no lease lasts longer, and nobody has to help."""


def promised(name: str) -> Promise:
    """What clients may notice."""
    if name in PLANNED:
        return Promise(PAUSE_LIMIT, errors=False)
    fault, _colon, place = name.partition(":")
    if place.startswith("etcd"):
        return Promise(UNNOTICED, errors=False)
    return Promise(FAULTS[fault].seconds + OVER, errors=True)


def every() -> list[str]:
    """All there are: fault and place, and planned work."""
    return [f"{fault.name}:{place}" for fault in FAULTS.values() for place in fault.places] + list(PLANNED)


def worker_group(nodes: Nodes, chance: random.Random) -> str:
    """One of the groups of workers."""
    return chance.choice([group for group in nodes.groups if group != "coordinator"])


# Who stands at a place at this moment; :func:`targets` takes it.
PLACES: dict[str, Callable[[Nodes, random.Random], str]] = {
    "machine": lambda _nodes, _chance: "machine",
    "coordinator": lambda nodes, _chance: nodes.leader("coordinator"),
    "coordinator_standby": lambda nodes, _chance: nodes.standby("coordinator"),
    "worker": lambda nodes, chance: nodes.leader(worker_group(nodes, chance)),
    "worker_standby": lambda nodes, chance: nodes.standby(worker_group(nodes, chance)),
    "standby": lambda nodes, chance: nodes.standby(chance.choice(list(nodes.groups))),
    "pooler": lambda nodes, chance: chance.choice(nodes.poolers),
    "haproxy": lambda nodes, chance: chance.choice(nodes.proxies),
}


def targets(nodes: Nodes, place: str, chance: random.Random) -> list[str]:
    """The nodes that a place stands for: ``etcd*2`` two members, ``coordinator+worker_standby`` one of each.

    :raises CannotHappen: the cluster has nobody there.
    """
    try:
        if place.startswith("etcd"):
            return chance.sample(nodes.etcd, int(place.partition("*")[2] or 1))
        return [PLACES[part](nodes, chance) for part in place.split("+")]
    except (IndexError, StopIteration, ValueError) as nobody:
        raise CannotHappen(f"the inventory has nobody, or too few, for {place}") from nobody


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
    """Let a fault happen, undo it, and wait until the cluster is complete by itself and its clients are steady.

    :raises CannotHappen: something that it needs is missing; nothing was done.
    """
    begun = time.time()
    problem = ""
    # Who has to lead in the end, too
    leading: dict[str, tuple[str, int]] = {}
    if name in PLANNED:
        work = PLANNED[name]
        place = name.partition(":")[2]
        group = nodes.group_of(targets(nodes, place, chance)[0]) if place else "all"
        arguments = ["-e", f"group={group}"] if place else []
        hit = [group]
        try:
            code, output = nodes.play(work.playbook, *arguments, until=nodes.paused if work.killed else None)
        except DidNotHappen as reason:
            problem = f"it did not happen: {reason}"
        else:
            expected = KILLED if work.killed else 0
            problem = "" if code == expected else f"the playbook ended with {code}: {output[-1500:]}"
    else:
        fault_name, _colon, place = name.partition(":")
        fault = FAULTS[fault_name]
        hit = targets(nodes, place, chance)
        before = nodes.leadership()
        begun = time.time()
        problem = suffer(nodes, fault, hit, before)
        leading = before if fault.borne == ALWAYS else {}
    ended = time.time()
    deadline = time.monotonic() + patience
    while (lacking := [*nodes.lacking(), *troubles()]) and time.monotonic() < deadline:
        time.sleep(1)
    if lacking:
        problem += f" after {patience:g} seconds: {'; '.join(lacking)}"
    elif leading:
        problem += taken_over(leading, nodes.leadership())
    return Happened(name, tuple(hit), begun, ended, time.time(), problem.strip())


def suffer(nodes: Nodes, fault: Fault, hit: list[str], before: dict[str, tuple[str, int]]) -> str:
    """Let a fault last for its time; who took over although nobody was dead."""
    problem = ""
    borne = min(fault.borne, fault.seconds)
    try:
        for node in hit:
            fault.begin(nodes, node)
        time.sleep(borne)
        if 0 < borne < fault.seconds:
            problem = taken_over(before, nodes.leadership(without=hit))
        time.sleep(fault.seconds - borne)
    except DidNotHappen as reason:
        problem = f"it did not happen: {reason}"
    finally:
        for node in hit:
            fault.end(nodes, node)
    return problem


def taken_over(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> str:
    """Which groups have another leader, or the same one after somebody else."""
    return "; ".join(
        f"{group} was led by {before[group][0]} on timeline {before[group][1]}, then by {name} on {timeline}"
        for group, (name, timeline) in after.items()
        if before[group] != (name, timeline)
    )


def undo_everything(nodes: Nodes) -> list[str]:
    """Whatever was interrupted: no process stopped, no node away, no rule in a network. What could not be undone."""

    def attempt(action: Action, node: str) -> list[str]:
        try:
            action(nodes, node)
        except DidNotHappen as reason:
            return [str(reason)]
        return []

    def undo(node: str) -> list[str]:
        return [reason for action in (thaw, start, empty_disk, mend_network) for reason in attempt(action, node)]

    with ThreadPoolExecutor(max_workers=8) as pool:
        idle = pool.map(lambda node: attempt(make_idle, node), nodes.first_of_each(MACHINE))
        return [*itertools.chain(*idle, *pool.map(undo, nodes.all))]


def order(names: list[str], chance: random.Random, each: int) -> Iterator[str]:
    """Each fault ``each`` times in an order of chance; without a number for ever, all of them again and again."""
    rounds = 0
    while not each or rounds < each:
        shuffled = list(names)
        chance.shuffle(shuffled)
        yield from shuffled
        rounds += 1
