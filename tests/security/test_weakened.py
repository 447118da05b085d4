# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The same attempts on a cluster without protection get in: the tests are worth something."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import test_containers
from attackers import LOOT, Attacker, attacker
from cluster import PREFIX, Cluster
from test_attacks import CA, SILENT, STOLEN, UNSAFE, pair, server, unsafe

WEAKER = {
    # PostgreSQL: anybody, from anywhere, as anybody, without TLS
    "postgres_hba": ["host all all 0.0.0.0/0 trust"],
    "postgres_parameters": {"ssl_min_protocol_version": "TLSv1", "ssl_ciphers": "ALL:@SECLEVEL=0"},
    "pgbouncer_parameters": {"client_tls_sslmode": "allow", "admin_users": "app"},
    "postgres_patroni_allowlist": ["0.0.0.0/0"],
    "cluster_sslmode": "verify-ca",
    "cluster_etcd_authentication": False,
    "postgres_patroni_verify_client": "none",
    "haproxy_check_verify": "none",
    # One node is enough
    "service_confined": "{{ not inventory_hostname.endswith('etcd-3') }}",
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def roles(demo: Cluster, flag: str) -> dict[str, object]:
    """The inventory's roles, the application's with a flag of PostgreSQL's."""
    return {
        "cluster_roles": [
            {**role, **({"flags": [flag]} if role["name"] == "app" else {})} for role in demo.variables["cluster_roles"]
        ]
    }


@pytest.fixture(scope="module")
def weakened(demo: Cluster) -> Iterator[Cluster]:
    """The cluster without its protection, which it has again afterwards."""
    demo.play("site", "-e", json.dumps({**WEAKER, **roles(demo, "SUPERUSER")})).succeeded()
    try:
        yield demo
    finally:
        demo.play("site", "-e", json.dumps(roles(demo, "NOSUPERUSER"))).succeeded()
        assert demo.play("site").succeeded().changed == {}


@pytest.fixture(scope="module")
def inside(weakened: Cluster) -> Iterator[Attacker]:
    """A container on the cluster's network."""
    with attacker(weakened, "attacker-inside", f"citus_ha.{weakened.variables['cluster_name']}") as made:
        yield made


def test_postgresql_lets_anybody_in(inside: Attacker) -> None:
    for how in (f"user=app {CA} {SILENT}", "user=postgres sslmode=disable", f"user=postgres {CA} {pair('stolen')}"):
        outcome = inside.sql(f"{server('worker1-1')} {how}", password="wrong")
        assert outcome.code == 0, outcome.output


def test_old_tls_is_spoken(inside: Attacker) -> None:
    address = f"{PREFIX}coordinator-1:5432"
    outcome = inside.tls(address, "-starttls", "postgres", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert outcome.code == 0, outcome.output


def test_pgbouncer_takes_plaintext_and_shows_its_console(weakened: Cluster, inside: Attacker) -> None:
    where = f"host={PREFIX}pgbouncer-1 port=6432"
    assert inside.sql(f"{where} dbname=app user=app sslmode=disable", password=weakened.password).code == 0
    console = f"{where} dbname=pgbouncer user=app {CA} {SILENT}"
    assert inside.sql(console, "SHOW CONFIG", weakened.password).code == 0


def test_patroni_takes_a_stolen_certificate(inside: Attacker) -> None:
    method, path = UNSAFE[1]
    stolen = ("--cert", f"{LOOT}/stolen.crt", "--key", f"{LOOT}/stolen.key")
    assert not inside.run(*unsafe(method, path, *stolen)).output.endswith(" 403")


def test_patroni_takes_no_certificate_at_all(inside: Attacker) -> None:
    assert not inside.run(*unsafe(*UNSAFE[1])).output.endswith(" 403")


def test_etcd_shows_everything_to_a_stolen_certificate(inside: Attacker) -> None:
    what, argv, _refusal = STOLEN[0]
    outcome = inside.run(*argv)
    assert (what, outcome.code) == ("reading", 0) and "/leader" in outcome.output, outcome.output


def test_servers_and_poolers_ask_for_no_name(weakened: Cluster) -> None:
    for check in (
        test_containers.test_servers_check_whom_they_connect_to,
        test_containers.test_poolers_check_whom_they_connect_to,
    ):
        with pytest.raises(AssertionError, match=r"sslmode ?= ?verify-ca"):
            check(weakened)


def test_haproxy_believes_every_server(weakened: Cluster) -> None:
    with pytest.raises(AssertionError, match="verify none"):
        test_containers.test_haproxys_checks_verify_whom_they_ask(weakened)


@pytest.mark.parametrize(("aspect", "expected"), [("ReadonlyRootfs", True), ("CapDrop", ["ALL"])])
def test_a_container_is_not_confined(weakened: Cluster, aspect: str, expected: object) -> None:
    found = {container.name: container.attrs for container in weakened.containers()}
    with pytest.raises(AssertionError, match=f"{PREFIX}etcd-3"):
        test_containers.test_docker_confines_every_container(found, aspect, expected)


def test_the_application_role_reads_hashes(weakened: Cluster) -> None:
    assert weakened.query("SELECT rolname FROM pg_authid WHERE rolname = 'postgres'", port=25000) == [("postgres",)]
