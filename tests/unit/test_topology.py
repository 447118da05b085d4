# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What an inventory means, and what is wrong with it."""

from __future__ import annotations

import copy
import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.action.topology import ROLES, profiles, role_specs
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology import build
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_checks import FACTS, nearest
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import Inventory, container_ip

REPOSITORY = Path(__file__).resolve().parents[2]
GROUPS: dict[str, list[str]] = {
    "etcd": ["etcd-1", "etcd-2", "etcd-3"],
    "coordinator": ["coordinator-1", "coordinator-2"],
    "workers": ["worker1-1", "worker1-2", "worker2-1", "worker2-2"],
    "worker1": ["worker1-1", "worker1-2"],
    "worker2": ["worker2-1", "worker2-2"],
    "pgbouncer": ["pgbouncer-1"],
    "standalone": ["postgres-1"],
}


def inventory(groups: dict[str, list[str]] | None = None, **hosts: dict[str, Any]) -> Inventory:
    """The default inventory with ``groups`` replaced and variables of hosts (underscores for dashes) added."""
    groups = copy.deepcopy(GROUPS) | (groups or {})
    hostvars: dict[str, dict[str, Any]] = {host: {} for members in groups.values() for host in members}
    for group, number in (("worker1", 1), ("worker2", 2)):
        for host in groups[group]:
            hostvars[host]["citus_group"] = number
    for host, variables in hosts.items():
        if host == "everywhere":
            for each in hostvars.values():
                each.update(variables)
        else:
            hostvars[host.replace("_", "-")].update(variables)
    return Inventory({"all": sorted(hostvars), **groups}, hostvars, role_specs(), profiles())


def findings(described: Inventory) -> str:
    """All findings of an inventory as one text."""
    return "\n".join(str(finding) for finding in build(described)[1])


def test_etcd_alone_is_in_order() -> None:
    nothing_else: dict[str, list[str]] = {group: [] for group in GROUPS if group != "etcd"}
    topology, found = build(inventory(nothing_else))
    assert found == []
    assert topology["postgres_version"] == 17


def test_names_that_certificates_carry_are_plain() -> None:
    assert "all: cluster_name is 'shop,O=x': use letters" in findings(
        inventory(everywhere={"cluster_name": "shop,O=x"})
    )
    root = inventory({"etcd": ["root", "etcd-2", "etcd-3"]})
    assert "etcd knows its administrator by it" in findings(root)


def test_a_control_plane_without_tls_says_all_that_it_does_without() -> None:
    said = dict.fromkeys(("postgres_patroni_verify_client", "haproxy_check_verify"), "none")
    without = {"cluster_control_plane_tls": "no", "cluster_etcd_authentication": False, **said}
    assert findings(inventory(everywhere=without)) == ""


def test_the_default_inventory_is_in_order() -> None:
    topology, found = build(inventory())
    assert found == []
    assert topology["worker_groups"] == {"1": ["worker1-1", "worker1-2"], "2": ["worker2-1", "worker2-2"]}
    assert topology["nodes"]["worker1-2"]["group"] == "worker1"
    assert topology["nodes"]["coordinator-1"]["citus_group"] == 0
    assert topology["nodes"]["postgres-1"]["citus_group"] is None
    assert topology["nodes"]["postgres-1"]["manager"] == "none"
    assert [name for name, node in topology["nodes"].items() if node["initial_primary"]] == [
        "coordinator-1",
        "worker1-1",
        "worker2-1",
        "postgres-1",
    ]


@pytest.mark.parametrize(
    ("described", "words"),
    [
        pytest.param(inventory({"etcd": ["etcd-1", "etcd-2"]}), ["group etcd", "odd number"], id="even etcd"),
        pytest.param(inventory({"etcd": []}), ["group etcd", "Patroni needs etcd"], id="no etcd"),
        pytest.param(inventory({"coordinator": []}), ["group coordinator", "needs a coordinator"], id="no coordinator"),
        pytest.param(
            inventory(worker2_1={"citus_group": 1}, worker2_2={"citus_group": 1}),
            ["worker1 and worker2", "citus_group is 1", "number of its own"],
            id="one number twice",
        ),
        pytest.param(
            inventory(worker1_1={"citus_group": 0}), ["citus_group is 0", "coordinator"], id="the coordinator's number"
        ),
        pytest.param(
            inventory({"workers": ["worker1-1", "worker1-2"], "worker2": []}),
            ["group worker2", "needs a primary"],
            id="empty worker group",
        ),
        pytest.param(
            inventory(worker1_1={"postgres_initial_role": "standby"}, worker1_2={"postgres_initial_role": "standby"}),
            ["group worker1", "postgres_initial_role", "every host of the group is a standby"],
            id="only standbys",
        ),
        pytest.param(
            inventory(worker1_1={"postgres_initial_role": "primary"}, worker1_2={"postgres_initial_role": "primary"}),
            ["worker1-1, worker1-2", "only one host"],
            id="two primaries",
        ),
        pytest.param(
            inventory(coordinator_1={"postgres_published_port": 6432}, pgbouncer_1={"pgbouncer_published_port": 6432}),
            ["pgbouncer-1", "pgbouncer_published_port is 6432", "coordinator-1", "postgres_published_port"],
            id="published port twice",
        ),
        pytest.param(
            inventory(everywhere={"service_docker_network_mode": "host"}),
            ["worker1-1", "postgres_port is 5432", "same machine"],
            id="port twice on a machine",
        ),
        pytest.param(
            inventory(worker1_1={"postgres_port": 70000}), ["postgres_port is 70000", "1 to 65535"], id="no port"
        ),
        pytest.param(
            inventory(everywhere={"postgres_version": 14}), ["postgres_version is 14", "16, 17, 18"], id="version"
        ),
        pytest.param(
            inventory(everywhere={"postgres_version": 18, "citus_version": "13.2"}),
            ["postgres_version is 18", "Citus 13.2 runs on PostgreSQL 16, 17"],
            id="version for these packages",
        ),
        pytest.param(
            inventory(everywhere={"cluster_drain_timeout": 20}),
            ["cluster_hold_limit is 30", "set it to 35 or more", "cluster_drain_timeout (20)"],
            id="clients that would go on too early",
        ),
        pytest.param(inventory(everywhere={"citus_version": "9.5"}), ["citus_version is '9.5'"], id="citus version"),
        pytest.param(
            inventory(worker1_1={"cluster_etcd_authentication": False}),
            ["cluster_etcd_authentication", "not the same on all hosts", "group_vars/all"],
            id="etcd with and without authentication",
        ),
        pytest.param(
            inventory(everywhere={"cluster_control_plane_tls": False, "haproxy_check_verify": "none"}),
            [
                "cluster_etcd_authentication is 'true': with cluster_control_plane_tls: false",
                "Set it to false, too",
                "postgres_patroni_verify_client is 'optional'",
                "Set it to none, too",
            ],
            id="certificates without TLS",
        ),
        pytest.param(
            inventory(everywhere={"cluster_etcd_password": "elevenchars"}),
            ["Patroni: cluster_etcd_password", "11 characters", "at least 12"],
            id="short password of etcd",
        ),
        pytest.param(
            inventory(everywhere={"cluster_etcd_password": "more than one word"}),
            ["cluster_etcd_password", "has white space", "choose one without"],
            id="password of etcd with white space",
        ),
        pytest.param(
            inventory(everywhere={"cluster_roles": [{"name": "app", "password": "elevenchars"}]}),
            ["role app", "11 characters", "at least 12"],
            id="short password",
        ),
        pytest.param(
            inventory(
                worker1_1={"postgres_parameters": {"shared_preload_libraries": "pg_stat_statements, auto_explain"}}
            ),
            ["worker1-1", "shared_preload_libraries", "auto_explain crashes Citus"],
            id="auto_explain",
        ),
        pytest.param(
            inventory({"standalone": ["worker1-1"]}),
            ["worker1-1", "groups", "worker1", "standalone"],
            id="two exclusive groups",
        ),
        pytest.param(
            inventory(everywhere={"postgres_max_connection": 100}),
            ["postgres_max_connection is 'unknown'", "did you mean postgres_max_connections?"],
            id="typo",
        ),
        pytest.param(
            inventory(everywhere={"postgres_ttl": 19}), ["postgres_ttl is 19", "no less than 20"], id="short lease"
        ),
        pytest.param(
            inventory(everywhere={"ha_profile": "fast", "postgres_retry_timeout": 10}),
            ["coordinator-1", "worker1-1", "postgres_ttl is 20", "2 + 2 * 10 = 22"],
            id="lease shorter than two attempts",
        ),
        pytest.param(
            inventory(worker2_1={"postgres_loop_wait": 0, "postgres_retry_timeout": 2}),
            ["worker2-1", "postgres_loop_wait is 0", "no less than 1", "postgres_retry_timeout is 2", "no less than 3"],
            id="below Patroni's least",
        ),
        pytest.param(
            inventory(worker1_1={"service_ip": "172.29.9.9"}, worker1_2={"service_ip": "172.29.9.9"}),
            ["service_ip", "172.29.9.9", "same address"],
            id="address twice",
        ),
    ],
)
def test_bad_inventories_are_refused_with_variable_value_and_remedy(described: Inventory, words: list[str]) -> None:
    text = findings(described)
    for word in words:
        assert word in text


@pytest.mark.parametrize("profile", ["fast", "default", "wan"])
def test_every_profile_keeps_patronis_rules(profile: str) -> None:
    assert findings(inventory(everywhere={"ha_profile": profile})) == ""


def test_the_profiles_set_the_same_variables_and_every_one_is_a_default_that_follows_them() -> None:
    assert len({tuple(sorted(values)) for values in profiles().values()}) == 1
    defaults: dict[str, Any] = {}
    for path in (REPOSITORY / "roles").glob("*/defaults/main.yml"):
        defaults.update(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    for name in profiles()["default"]:
        assert defaults[name] == f"{{{{ ha_numbers.{name} }}}}"
    assert list(profiles()) == role_specs()["ha"]["ha_profile"]["choices"]


def test_a_variable_of_the_inventory_wins_over_the_profile() -> None:
    described = inventory(everywhere={"ha_profile": "wan"}, worker1_1={"postgres_ttl": 77})
    assert described.get("worker1-1", "postgres_ttl") == 77
    assert described.get("worker1-2", "postgres_ttl") == profiles()["wan"]["postgres_ttl"]


def test_all_findings_come_at_once() -> None:
    text = findings(
        inventory({"etcd": ["etcd-1", "etcd-2"]}, everywhere={"postgres_version": 14}, worker1_1={"postgres_port": 0})
    )
    assert "group etcd" in text and "postgres_version" in text and "postgres_port" in text


def test_a_password_never_shows_in_a_finding() -> None:
    assert "hunter2" not in findings(inventory(everywhere={"cluster_roles": [{"name": "app", "password": "hunter2"}]}))


def test_auto_explain_is_fine_without_citus() -> None:
    assert findings(inventory(postgres_1={"postgres_parameters": {"shared_preload_libraries": "auto_explain"}})) == ""


def test_addresses_stay_where_they_are_when_nodes_come_and_go() -> None:
    few, many = build(inventory())[0], build(inventory({"etcd": [f"etcd-{n}" for n in range(1, 6)]}))[0]
    assert all(many["nodes"][name]["ip"] == node["ip"] for name, node in few["nodes"].items())


@pytest.mark.parametrize("subnet", ["172.29.0.0/16", "10.1.0.0/22", "fd00::/112"])
def test_a_container_gets_an_address_of_its_subnet_and_never_the_gateway(subnet: str) -> None:
    network = ipaddress.ip_network(subnet)
    for number in range(500):
        address = ipaddress.ip_address(container_ip(f"node-{number}", subnet))
        assert address in network
        assert int(address) - int(network.network_address) >= 256
        assert address != network[-1]


def test_host_networking_uses_the_machines_address() -> None:
    described = inventory(
        {
            "etcd": ["etcd-1"],
            "coordinator": ["coordinator-1"],
            "workers": [],
            "worker1": [],
            "worker2": [],
            "pgbouncer": [],
            "standalone": [],
        },
        everywhere={"service_docker_network_mode": "host", "service_docker_machine": "machine-1"},
    )
    described.hostvars["machine-1"] = {"ansible_host": "192.0.2.7"}  # type: ignore[index]
    topology, found = build(described)
    assert found == []
    assert topology["nodes"]["coordinator-1"]["ip"] == topology["nodes"]["coordinator-1"]["address"] == "192.0.2.7"


def test_clients_come_by_published_ports_when_there_are_any() -> None:
    client = build(inventory(pgbouncer_1={"pgbouncer_published_port": 7432}))[0]["nodes"]["pgbouncer-1"]["client"]
    assert client == {"address": "localhost", "pooler": 7432, "primary": 0, "standby": 0}
    inside = build(inventory())[0]["nodes"]["pgbouncer-1"]["client"]
    assert inside["pooler"] == 6432 and inside["address"].startswith("172.29.")


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("postgres_prt", ["postgres_port"]) == "postgres_port"
    assert nearest("postgres_something_else_entirely", ["postgres_port"]) is None


def test_every_fact_that_the_roles_set_is_known() -> None:
    known = set(FACTS)
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        for block in re.findall(r"ansible\.builtin\.set_fact:\n((?: {4,}.*\n)+)", path.read_text(encoding="utf-8")):
            facts = {name for name in re.findall(r"^ {4}(\w+):", block, re.MULTILINE) if not name.startswith("__")}
            assert facts <= known, f"{path}: {facts - known}"


@pytest.mark.parametrize(
    ("subnet", "words"),
    [
        ("172.29.0.0/33", "write a network such as"),
        ("172.29.0.1/16", "has host bits set"),
        ("fd00::/64", "IPv4"),
        ("172.29.0.0/24", "/22 or larger"),
    ],
)
def test_a_docker_network_that_cannot_be_is_refused_once(subnet: str, words: str) -> None:
    found = build(inventory(everywhere={"service_docker_subnet": subnet}))[1]
    assert len(found) == 1
    assert "service_docker_subnet" in str(found[0]) and words in str(found[0])


def test_every_port_of_a_machine_is_looked_at_where_its_process_listens() -> None:
    described = inventory(
        {group: [] for group in GROUPS if group not in ("etcd", "coordinator", "pgbouncer")},
        everywhere={"service_manager": "systemd"},
        etcd_1={"ansible_host": "2001:db8::11"},
        pgbouncer_1={"ansible_host": "192.0.2.51"},
    )
    nodes = build(described)[0]["nodes"]
    wanted = {
        name: sorted((entry["variable"], entry["address"]) for entry in nodes[name]["published"])
        for name in ("etcd-1", "pgbouncer-1")
    }
    assert wanted["etcd-1"] == [
        ("etcd_client_port", "2001:db8::11"),
        ("etcd_metrics_port", "127.0.0.1"),
        ("etcd_peer_port", "2001:db8::11"),
    ]
    assert wanted["pgbouncer-1"] == [
        ("haproxy_primary_port", "127.0.0.1"),
        ("haproxy_primary_port", "192.0.2.51"),
        ("haproxy_standby_port", "127.0.0.1"),
        ("haproxy_standby_port", "192.0.2.51"),
        ("haproxy_stats_port", "127.0.0.1"),
        ("pgbouncer_port", "127.0.0.1"),
        ("pgbouncer_port", "192.0.2.51"),
    ]


def test_groups_of_somebody_else_do_not_decide_who_belongs_together() -> None:
    """By hall, by rack: as small as a worker group, or smaller."""
    halls = {"a_hall": ["worker1-1", "worker2-1"], "b_rack": ["worker1-2"], "c_all": ["etcd-1", "worker2-2"]}
    nodes = build(inventory(halls))[0]["nodes"]
    assert {name: nodes[name]["group"] for name in GROUPS["workers"]} == {
        "worker1-1": "worker1",
        "worker1-2": "worker1",
        "worker2-1": "worker2",
        "worker2-2": "worker2",
    }


@pytest.mark.parametrize(
    ("everywhere", "words"),
    [
        ({"service_limits": {"nofiles": 1}}, ["service_limits.nofiles is 1", "no such limit: use one of core"]),
        ({"service_limits": {"nofile": "many"}}, ["service_limits.nofile is 'many'", "whole number"]),
        ({"service_limits": {"memlock": True}}, ["service_limits.memlock is True", "whole number"]),
        ({"postgres_watchdog": "required"}, ["postgres_watchdog is 'required'", "a container has no watchdog"]),
    ],
)
def test_what_the_system_cannot_do_is_refused_once(everywhere: dict[str, Any], words: list[str]) -> None:
    found = build(inventory(everywhere=everywhere))[1]
    assert len(found) == 1
    assert all(word in str(found[0]) for word in words)


def test_limits_and_a_watchdog_that_may_be_missing_are_fine_in_docker() -> None:
    everywhere = {"service_limits": {"nofile": 200000, "memlock": -1}, "postgres_watchdog": "automatic"}
    topology, found = build(inventory(everywhere=everywhere))
    assert found == []
    assert {str(node["system"]) for node in topology["nodes"].values()} == {"{}"}


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({}, ""),
        ({"postgres_watchdog": False}, ""),
        ({"postgres_watchdog": "automatic"}, ""),
        ({"postgres_watchdog": "required"}, "/dev/watchdog"),
        ({"postgres_watchdog": "required", "os_watchdog_module": "softdog"}, ""),
        ({"postgres_watchdog": "required", "postgres_watchdog_device": "/dev/watchdog1"}, "/dev/watchdog1"),
    ],
)
def test_a_machine_must_have_the_watchdog_that_is_required(variables: dict[str, Any], watchdog: str) -> None:
    nodes = build(inventory(everywhere={"service_manager": "systemd", "os_sysctl": {"vm.swappiness": 1}, **variables}))[
        0
    ]["nodes"]
    assert nodes["worker1-1"]["system"] == {"sysctl": ["vm.swappiness"], "watchdog": watchdog, "time_check": "warn"}
    assert nodes["etcd-1"]["system"]["watchdog"] == nodes["postgres-1"]["system"]["watchdog"] == ""


# ---- what runs beside a node ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "beside"),
    [
        ({}, ["lease"]),
        ({"ha_profile": "wan"}, []),
        ({"postgres_lease_keeper": "no"}, []),
        ({"ha_profile": "wan", "postgres_lease_keeper": True}, []),
        ({"ha_profile": "wan", "postgres_lease_keeper": True, "postgres_primary_start_timeout": 0}, ["lease"]),
        ({"postgres_primary_start_timeout": 300}, []),
        ({"postgres_manager": "none"}, []),
    ],
)
def test_a_server_has_somebody_who_gives_its_lease_up(said: dict[str, Any], beside: list[str]) -> None:
    alone = {"workers": ["worker1-1", "worker1-2", "worker2-1"], "worker2": ["worker2-1"]}
    topology, found = build(inventory(alone, everywhere=said))
    assert found == []
    nodes = topology["nodes"]
    assert nodes["coordinator-1"]["beside"] == nodes["worker1-2"]["beside"] == beside
    assert nodes["worker2-1"]["beside"] == nodes["postgres-1"]["beside"] == [], "nobody could lead instead"
    assert nodes["pgbouncer-1"]["beside"] == ["haproxy"]


def test_what_runs_beside_a_server_takes_memory_too() -> None:
    limits = {"postgres_memory": "1g", "postgres_lease_memory": "64m", "postgres_cpus": 0.5}
    nodes = build(inventory(everywhere=limits))[0]["nodes"]
    assert nodes["coordinator-1"]["memory"] == 2**30 + 2**26
    assert nodes["postgres-1"]["memory"] == 2**30
    assert nodes["coordinator-1"]["cpus"] == 1
