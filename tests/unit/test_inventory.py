# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""An inventory in INI form that is nothing like the default one becomes the cluster that it describes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible_collections.citus_ha.cluster.plugins.action.topology import profiles, role_specs
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology import build
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_checks import Finding
from ansible_collections.citus_ha.cluster.plugins.plugin_utils.topology_nodes import Inventory
from rendering import Rendered, collection, content, render

INVENTORY = Path(__file__).parent / "inventories/large.ini"
# The one host without an address in the inventory; here a name that no resolver has to know.
NAMELESS = "south-1.localhost"
RESOLVED = {NAMELESS: "2001:db8::51"}


def described(
    resolve: dict[str, str] | None = None, inventory: Path = INVENTORY
) -> tuple[dict[str, Any], list[Finding]]:
    """The inventory as Ansible reads it, described."""
    manager = InventoryManager(loader=DataLoader(), sources=[str(inventory)])
    groups = {name: [str(host) for host in group.get_hosts()] for name, group in manager.groups.items()}
    variables = VariableManager(loader=DataLoader(), inventory=manager)
    hostvars = {str(host): variables.get_vars(host=host) for host in manager.get_hosts()}
    return build(Inventory(groups, hostvars, role_specs(), profiles(), (RESOLVED if resolve is None else resolve).get))


def test_it_is_the_topology_that_it_describes() -> None:
    made, found = described()
    assert found == []
    assert len(made["etcd"]) == 5
    assert made["poolers"] == ["door-1.example.com", "door-2.example.com"]
    assert made["worker_groups"] == {
        "11": [f"north-{number}.example.com" for number in (1, 2, 3)],
        "12": [f"east-{number}.example.com" for number in (1, 2, 3)],
        "13": [NAMELESS, "south-2.example.com", "south-3.example.com"],
    }
    primaries = [name for name, node in made["nodes"].items() if node["initial_primary"]]
    assert primaries == ["head-1.example.com", "north-1.example.com", "east-3.example.com", NAMELESS]
    assert {node["group"] for node in made["nodes"].values()} == {
        *("etcd", "coordinator", "pgbouncer"),
        *("north", "east", "south"),
    }
    assert made["nodes"]["registry-d.example.com"]["ip"] == "2001:db8::14", "as everybody writes it"


def test_the_inventory_of_the_readme_is_a_cluster(tmp_path: Path) -> None:
    readme = (INVENTORY.parents[3] / "README.md").read_text(encoding="utf-8")
    text = re.search(r"```yaml\n(all:\n.*?)```", readme, re.DOTALL)
    assert text
    (tmp_path / "hosts.yml").write_text(text[1], encoding="utf-8")
    made, found = described(inventory=tmp_path / "hosts.yml")
    assert found == []
    assert {name: node["group"] for name, node in made["nodes"].items()} == {
        **{f"etcd-{number}": "etcd" for number in (1, 2, 3)},
        **{f"{group}-{number}": group for group in ("coordinator", "worker1") for number in (1, 2)},
        "pgbouncer-1": "pgbouncer",
    }


def test_a_host_without_an_address_is_reached_by_its_name() -> None:
    node = described()[0]["nodes"][NAMELESS]
    assert (node["address"], node["ip"]) == (NAMELESS, "2001:db8::51")
    assert {NAMELESS, "2001:db8::51"} <= set(node["names"])


@pytest.mark.parametrize(
    ("resolved", "words"),
    [
        ({}, "does not resolve on the controller. Set service_ip"),
        ({NAMELESS: "127.0.1.1"}, "on the controller that is 127.0.1.1, where no other machine reaches it"),
        ({NAMELESS: "fe80::1"}, "link-local"),
        ({NAMELESS: "2001:db8::52"}, "have the same address"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(resolved: dict[str, str], words: str) -> None:
    found = described(resolved)[1]
    assert len(found) == 1
    assert NAMELESS in str(found[0]) and words in str(found[0])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """What every process is given."""
    folder = tmp_path_factory.mktemp("large")
    collection(folder)
    (folder / "secrets").mkdir()
    inventory, dump = folder / "large.ini", folder / "dump"
    # The controller of a test may know no address of the name
    text = INVENTORY.read_text().replace(
        f"\n{NAMELESS}\n", f"\n{NAMELESS} service_ip=2001:db8::51 service_address={NAMELESS}\n"
    )
    inventory.write_text(
        f"{text}ansible_python_interpreter={sys.executable}\ndump_path={dump}\ncluster_secrets_path={folder}/secrets\n"
    )
    return render(folder, inventory, dump)


def test_etcd_is_told_urls(rendered: Rendered) -> None:
    given = rendered["registry-a.example.com"]
    settings = yaml.safe_load(content(given, "/etc/citus_ha/etcd/etcd.yml"))
    assert settings["listen-client-urls"] == settings["advertise-client-urls"] == "https://[2001:db8::11]:3379"
    assert settings["listen-peer-urls"] == settings["initial-advertise-peer-urls"] == "https://[2001:db8::11]:3380"
    assert settings["listen-metrics-urls"] == "http://127.0.0.1:3381"
    start = content(given, "/etc/citus_ha/etcd/start.sh")
    members = re.search(r"members=(\S+)", start)
    assert members
    assert members[1].split(",") == [
        f"registry-{letter}.example.com=https://[2001:db8::1{number}]:3380" for number, letter in enumerate("abcde", 1)
    ]


def test_patroni_is_told_addresses_with_ports(rendered: Rendered) -> None:
    settings = yaml.safe_load(content(rendered["east-2.example.com"], "/etc/citus_ha/postgres/patroni.yml"))
    assert settings["name"] == "east-2.example.com"
    assert settings["citus"]["group"] == 12
    assert settings["etcd3"]["hosts"] == [f"[2001:db8::1{number}]:3379" for number in (1, 2, 3, 4, 5)]
    assert settings["restapi"]["listen"] == settings["restapi"]["connect_address"] == "[2001:db8::42]:8108"
    assert settings["postgresql"]["listen"] == "2001:db8::42,127.0.0.1:6543"
    assert settings["postgresql"]["connect_address"] == "[2001:db8::42]:6543"
    hba = settings["postgresql"]["pg_hba"]
    assert "hostssl replication replicator 2001:db8::43/128 cert clientname=DN map=nodes" in hba
    assert "hostssl all all 2001:db8:1::/48 scram-sha-256" in hba
    assert "https://[2001:db8::42]:8108/readiness" in rendered["east-2.example.com"]["health"]
    named = yaml.safe_load(content(rendered[NAMELESS], "/etc/citus_ha/postgres/patroni.yml"))
    assert named["postgresql"]["connect_address"] == f"{NAMELESS}:6432"
    assert named["postgresql"]["listen"] == "2001:db8::51,127.0.0.1:6432"


def test_a_unit_has_the_watchdog_and_the_limits_and_keeps_its_hardening(rendered: Rendered) -> None:
    with_one, without = (rendered[name]["unit"].splitlines() for name in ("head-1.example.com", "north-1.example.com"))
    assert {
        "ExecStartPre=+-/bin/chown postgres /dev/watchdog",
        "DeviceAllow=/dev/watchdog rw",
        "DevicePolicy=closed",
    } <= set(with_one)
    assert "PrivateDevices=true" not in with_one
    assert "PrivateDevices=true" in without and not [line for line in without if "watchdog" in line]
    for unit in (with_one, without):
        assert {"LimitNOFILE=65536", "LimitMEMLOCK=infinity", "NoNewPrivileges=true"} <= set(unit)
    for name, mode in (("head-1.example.com", "required"), ("north-1.example.com", "off")):
        settings = yaml.safe_load(content(rendered[name], "/etc/citus_ha/postgres/patroni.yml"))
        assert settings["watchdog"] == {"mode": mode, "device": "/dev/watchdog"}


def test_the_poolers_are_told_addresses_with_ports(rendered: Rendered) -> None:
    proxy = content(rendered["door-1.example.com-haproxy"], "/etc/citus_ha/haproxy/haproxy.cfg")
    assert "    bind [2001:db8::61]:7000\n    bind 127.0.0.1:7000\n" in proxy
    assert "    bind [2001:db8::61]:7001\n" in proxy
    assert "    bind 127.0.0.1:7404\n" in proxy
    assert "    server head-2.example.com [2001:db8::22]:6432 check port 8008 " in proxy
    pooler = content(rendered["door-1.example.com"], "/etc/citus_ha/pgbouncer/pgbouncer.ini")
    assert "listen_addr = 2001:db8::61,127.0.0.1\n" in pooler
    assert "app = host=127.0.0.1 port=7000\n" in pooler


def test_clients_are_told_an_address_for_each_pooler(rendered: Rendered) -> None:
    uri, passwords = (rendered["door-1.example.com"][key] for key in ("uri", "pgpass"))
    assert uri.startswith("postgresql://app@[2001:db8::61]:7432,192.0.2.62:7432/app?sslmode=verify-full&")
    assert "\n2001\\:db8\\:\\:61:7432:*:app:" in passwords
    assert "\n192.0.2.62:7432:*:app:" in passwords


def test_certificates_name_addresses_and_names(rendered: Rendered) -> None:
    assert {"IP:2001:db8::22", "DNS:head-2.example.com", "IP:2001:db8::61", "DNS:door-2.internal.example.com"} <= set(
        rendered["head-2.example.com"]["certificate_names"]
    )
    assert {"IP:192.0.2.62", "DNS:door-2.example.com"} <= set(rendered["door-2.example.com"]["certificate_names"])
    assert f"DNS:{NAMELESS}" in rendered[NAMELESS]["certificate_names"]
