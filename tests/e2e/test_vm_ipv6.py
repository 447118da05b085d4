# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Machines with IPv6 addresses, names with a domain and other ports, out of an inventory in INI form.

Five etcd members, three worker groups of three, two poolers: tests/unit/inventories/large.ini says how such a cluster
is rendered, and test_large.py brings it up in containers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import eventually
from vm import Machines, switched_on

pytestmark = pytest.mark.slow

INVENTORY = """
[etcd]
registry-a.example.com ansible_host=fd00:77:202::11
registry-b.example.com ansible_host=fd00:77:202::12
registry-c.example.com ansible_host=fd00:77:202::13
registry-d.example.com ansible_host=fd00:77:202::14
registry-e.example.com ansible_host=fd00:77:202::15

[coordinator]
head-1.example.com ansible_host=fd00:77:202::21
head-2.example.com ansible_host=fd00:77:202::22

[north]
north-1.example.com ansible_host=fd00:77:202::31 postgres_initial_role=standby
north-2.example.com ansible_host=fd00:77:202::32
north-3.example.com ansible_host=fd00:77:202::33

[north:vars]
citus_group=11
postgres_port=6543
postgres_patroni_port=8108

[east]
east-1.example.com ansible_host=fd00:77:202::41
east-2.example.com ansible_host=fd00:77:202::42
east-3.example.com ansible_host=fd00:77:202::43

[east:vars]
citus_group=12

[south]
south-1.example.com ansible_host=fd00:77:202::51
south-2.example.com ansible_host=fd00:77:202::52
south-3.example.com ansible_host=fd00:77:202::53

[south:vars]
citus_group=13

[workers:children]
north
east
south

[pgbouncer]
door-1.example.com ansible_host=fd00:77:202::61
door-2.example.com ansible_host=fd00:77:202::62

[all:vars]
machines_subnet=10.202.2.0/24
machines_subnet6=fd00:77:202::/64
pgbouncer_port=7432
haproxy_primary_port=7000
haproxy_standby_port=7001
haproxy_stats_port=7404
etcd_client_port=3379
etcd_peer_port=3380
etcd_metrics_port=3381
"""
GROUP = ("north-1.example.com", "north-2.example.com", "north-3.example.com")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """The machines with the cluster on them."""
    made = Machines(tmp_path_factory.mktemp("vm"), "citus_ha_test_vm6")
    made.variables["postgres_memory"] = "320m"
    (made.inventory / "group_vars").mkdir(parents=True)
    (made.inventory / "group_vars/all.json").write_text(json.dumps(made.variables))
    Path(made.inventory / "hosts.ini").write_text(INVENTORY)
    with switched_on(made):
        made.play("site").succeeded()
        yield made


@pytest.mark.timeout(1800)
def test_the_example_runs_and_the_cluster_is_healthy(machines: Machines) -> None:
    machines.play("example").succeeded()
    machines.play("verify").succeeded()
    assert "@[fd00:77:202::61]:7432,[fd00:77:202::62]:7432/" in (machines.inventory / ".secrets/app.dsn").read_text()
    assert machines.query("SELECT count(*) FROM events") == [(6,)]
    nodes = "SELECT nodename, nodeport, groupid FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"
    assert [row[1:] for row in machines.query(nodes)] == [(5432, 0), (6543, 11), (5432, 12), (5432, 13)]


def test_a_second_run_changes_nothing(machines: Machines) -> None:
    assert machines.play("site").succeeded().changed == {}


def test_nothing_listens_where_it_was_not_told_to(machines: Machines) -> None:
    """IPv4 addresses of the machines' network and wildcards are what nobody asked for; sshd is the machine's own."""
    for machine in ("registry-a.example.com", "head-1.example.com", "north-2.example.com", "door-1.example.com"):
        listening = machines.console(machine, "ss --listening --tcp --numeric --no-header | awk '{print $4}'").split()
        addresses = {entry.rpartition(":")[0] for entry in listening if not entry.endswith(":22")}
        assert addresses <= {"127.0.0.1", "127.0.0.11", "[::1]"} | {
            entry for entry in addresses if entry.startswith("[fd00:77:202::")
        }


def test_a_lost_leader_is_replaced_while_others_are_away(machines: Machines) -> None:
    recovering = "runuser -u postgres -- psql -h /run/postgresql -p 6543 -XAtc 'SELECT pg_is_in_recovery()'"
    leader = next(name for name in GROUP if machines.console(name, recovering) == "f")
    others = [name for name in GROUP if name != leader]
    # One of each kind at the same time
    away = (leader, "registry-b.example.com", "registry-d.example.com", "door-1.example.com")
    machines.power("stop", *away)
    try:
        eventually(lambda: sorted(machines.console(name, recovering) for name in others) == ["f", "t"], timeout=120)
        eventually(
            lambda: len(machines.query("UPDATE events SET event_type = event_type RETURNING 1")) == 6, timeout=60
        )
    finally:
        machines.power("start", *away)
    eventually(lambda: machines.play("verify").succeeded(), timeout=240)
