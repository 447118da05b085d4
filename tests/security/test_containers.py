# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What Docker and PostgreSQL say about how the processes run: how little an attacker who is inside finds."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from cluster import PREFIX, Cluster

SERVERS = ("coordinator-1", "worker1-1", "worker2-2", "postgres-1")


@pytest.fixture(scope="module")
def containers(demo: Cluster) -> dict[str, Any]:
    """Every container's description."""
    found = {container.name: container.attrs for container in demo.containers()}
    assert len(found) >= 18
    return found


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [
        ("ReadonlyRootfs", True),
        ("Privileged", False),
        ("CapDrop", ["ALL"]),
        ("CapAdd", None),
        ("SecurityOpt", ["no-new-privileges:true"]),
        ("PidsLimit", 1024),
        ("Devices", []),
        ("PidMode", ""),
        ("UsernsMode", ""),
    ],
)
def test_docker_confines_every_container(containers: dict[str, Any], aspect: str, expected: object) -> None:
    # Docker says null for a list that was not given
    wanted = [expected, None] if not expected else [expected]
    assert {
        name: attrs["HostConfig"][aspect]
        for name, attrs in containers.items()
        if attrs["HostConfig"][aspect] not in wanted
    } == {}


def test_nobody_is_root(demo: Cluster, containers: dict[str, Any]) -> None:
    for name, attrs in containers.items():
        assert attrs["Config"]["User"] not in ("", "0", "root", "0:0"), name
        status = demo.inside(name.removeprefix(PREFIX), "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in fields["Uid"].split() + fields["Gid"].split(), name
        assert {fields[kind].strip("0") for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}, name
        assert fields["NoNewPrivs"].strip() == "1", name


def test_nothing_of_the_machine_is_mounted_but_the_nodes_own(containers: dict[str, Any]) -> None:
    for name, attrs in containers.items():
        # What gives a server's lease up logs in at etcd as the server.
        node = name.removesuffix("-lease")
        for mount in attrs["Mounts"]:
            if mount["Type"] == "bind":
                assert mount["Source"] == f"/var/lib/citus_ha/citus_ha_test/{node}/etc/citus_ha", mount
                assert mount["RW"] is False
            else:
                assert mount["Type"] == "volume" and mount["Name"].startswith("citus_ha.citus_ha_test."), mount


def test_every_container_is_watched_and_restarted(containers: dict[str, Any]) -> None:
    for name, attrs in containers.items():
        assert attrs["State"]["Health"]["Status"] == "healthy", name
        assert attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", name


@pytest.mark.parametrize(
    ("kind", "megabytes", "cpus", "shares"),
    [
        # The memory is the inventory's; of the CPU the servers have nine tenths of all, and what the others leave.
        (r"(coordinator|worker[12]|postgres)-\d+$", 512, 0.9 * (os.cpu_count() or 1), 1024),
        ("etcd-", 256, 1, 10240),
        (r"pgbouncer-\d+$", 256, 1, 4096),
        (r"pgbouncer-\d+-haproxy", 128, 1, 4096),
        (r"(coordinator|worker[12])-\d+-lease", 128, 1, 4096),
    ],
)
def test_no_container_takes_what_the_others_need(
    containers: dict[str, Any], kind: str, megabytes: int, cpus: float, shares: int
) -> None:
    limited = [attrs["HostConfig"] for name, attrs in containers.items() if re.match(f"{PREFIX}({kind})", name)]
    assert limited
    for given in limited:
        assert given["Memory"] == given["MemorySwap"] == megabytes * 1024**2
        assert (given["NanoCpus"], given["CpuShares"]) == (round(cpus * 10**9), shares)


def test_the_root_file_system_cannot_be_written(demo: Cluster, containers: dict[str, Any]) -> None:
    for name in containers:
        written = demo.docker.containers.get(name).exec_run(["touch", "/usr/attack", "/etc/citus_ha/attack"])
        assert written.output.count(b"Read-only file system") == 2, written.output
        # Nor can what is in memory be executed.
        script = 'cp /bin/true /tmp/attack && /tmp/attack; code=$?; rm -f /tmp/attack; exit "$code"'
        assert demo.docker.containers.get(name).exec_run(["sh", "-c", script]).exit_code == 126


@pytest.mark.parametrize("node", SERVERS)
def test_settings_of_the_cis_benchmark(demo: Cluster, node: str) -> None:
    expected = {
        "password_encryption": "scram-sha-256",
        "ssl": "on",
        "ssl_min_protocol_version": "TLSv1.2",
        "ssl_ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
        "data_checksums": "on",
        "data_directory_mode": "0700",
        "log_connections": "on",
        "log_disconnections": "on",
        "log_lock_waits": "on",
        "log_statement": "ddl",
        "log_hostname": "off",
        "debug_print_parse": "off",
        "debug_print_plan": "off",
    }
    rows = demo.psql(node, "SELECT name, setting FROM pg_settings", "postgres")
    settings = dict(row.split("|", 1) for row in rows.splitlines() if "|" in row)
    assert {name: settings[name] for name in expected} == expected
    for piece in ("%m", "%p", "%u", "%d", "%a", "%h"):
        assert piece in settings["log_line_prefix"]


def test_servers_check_whom_they_connect_to(demo: Cluster) -> None:
    """Standbys check the leader's certificate and name, and so does Citus between nodes."""
    for group in ("coordinator", "worker1"):
        leader = demo.leader(group)
        standby = next(name for name in (f"{group}-1", f"{group}-2") if name != leader)
        assert "sslmode=verify-full" in demo.psql(standby, "SELECT conninfo FROM pg_stat_wal_receiver", "postgres")
        if "citus" in demo.psql(leader, "SHOW shared_preload_libraries"):  # the stand-in has no settings
            assert "sslmode=verify-full" in demo.psql(leader, "SHOW citus.node_conninfo")
        assert "sslmode: verify-full" in demo.inside(leader, "cat", "/etc/citus_ha/postgres/patroni.yml")


def test_poolers_check_whom_they_connect_to(demo: Cluster) -> None:
    ini = demo.inside("pgbouncer-1", "cat", "/etc/citus_ha/pgbouncer/pgbouncer.ini")
    assert "server_tls_sslmode = verify-full" in ini and "client_tls_sslmode = require" in ini


def test_haproxys_checks_verify_whom_they_ask(demo: Cluster) -> None:
    servers = [
        line
        for line in demo.inside("pgbouncer-1-haproxy", "cat", "/etc/citus_ha/haproxy/haproxy.cfg").splitlines()
        if " check port " in line
    ]
    assert len(servers) >= 2
    for line in servers:
        assert re.search(
            r"check-ssl verify required ca-file /etc/citus_ha/tls/ca\.crt verifyhost \S+coordinator-\d", line
        )


def test_the_database_is_the_application_roles(demo: Cluster) -> None:
    for group in ("coordinator", "worker1", "worker2", "postgres"):
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'"
        assert demo.psql(demo.leader(group), owner, "postgres") == "app"


@pytest.mark.parametrize("node", SERVERS)
def test_rules_let_in_whom_they_must(demo: Cluster, node: str) -> None:
    """What PostgreSQL has loaded, not what is in the file."""
    rows = [
        line.split("|")
        for line in demo.psql(
            node,
            "SELECT type, coalesce(address, ''), coalesce(netmask, ''), auth_method, coalesce(error, '')"
            " FROM pg_hba_file_rules",
            "postgres",
        ).splitlines()
    ]
    assert len(rows) >= 5
    for kind, address, netmask, method, error in rows:
        assert not error
        if kind == "local":
            assert method == "peer"
            continue
        assert kind == "hostssl" and method in ("cert", "scram-sha-256", "reject")
        if method != "reject":
            assert (netmask, address) != ("0.0.0.0", "0.0.0.0") and address != "all"
            assert netmask == "255.255.255.255", (address, netmask)


def test_superusers_and_replication(demo: Cluster) -> None:
    for group in ("coordinator", "worker1", "postgres"):
        asked = (
            "SELECT rolname, rolsuper, rolreplication, rolpassword IS NULL FROM pg_authid WHERE rolcanlogin ORDER BY 1"
        )
        rows = {
            line.split("|")[0]: line.split("|")[1:]
            for line in demo.psql(demo.leader(group), asked, "postgres").splitlines()
        }
        assert [role for role, (superuser, _r, _p) in rows.items() if superuser == "t"] == ["postgres"]
        assert rows["app"] == ["f", "f", "f"]
        # Who comes with a certificate has no password that could be guessed.
        assert {role for role, (_s, _r, without) in rows.items() if without == "t"} >= {"postgres"}
        if "replicator" in rows:
            assert rows["replicator"] == ["f", "t", "t"]


def test_the_image_says_what_is_in_it(demo: Cluster, containers: dict[str, Any]) -> None:
    labels = containers[f"{PREFIX}coordinator-1"]["Config"]["Labels"]
    assert labels["io.citus_ha.postgresql_version"] == "17"
    assert labels["io.citus_ha.citus_package"].startswith("postgresql-17-citus-")
    listed = json.loads(demo.inside("coordinator-1", "cat", "/usr/share/citus_ha/sbom.cdx.json"))
    versions = {component["name"]: component["version"] for component in listed["components"]}
    programs = {"postgresql-17", "patroni", "etcd-server", "pgbouncer", "haproxy", "pgbackrest"}
    if labels["io.citus_ha.citus_source"] != "standin":
        programs.add(labels["io.citus_ha.citus_package"])
    for package in {*programs, "libssl3t64"}:
        assert versions[package] == demo.inside(
            "coordinator-1", "dpkg-query", "--show", "--showformat=${Version}", package
        )
    prefix = "io.citus_ha.version."
    labelled = {name.removeprefix(prefix): value for name, value in labels.items() if name.startswith(prefix)}
    assert labelled == {package: versions[package] for package in programs}
