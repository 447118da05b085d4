# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Secrets are replaced while clients work: none of them sees an error, and what was replaced opens nothing any more."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from attackers import Attacker, Outcome
from cluster import PREFIX, Cluster, eventually
from cryptography import x509
from load import load

Got = Callable[[str, str], None]
ENTRANCES = {"PgBouncer": 26432, "HAProxy": 25000}
SERVED = [
    ("coordinator-1", 5432, "postgres"),
    ("worker2-2", 5432, "postgres"),
    ("postgres-1", 5432, "postgres"),
    ("pgbouncer-1", 6432, "postgres"),
    ("worker1-1", 8008, ""),
    ("etcd-2", 2379, ""),
]


def started(demo: Cluster) -> dict[str, str]:
    """When every process was started: containers, and the servers inside those of Patroni."""
    seen = {container.name: container.attrs["State"]["StartedAt"] for container in demo.containers()}
    for node in demo.nodes():
        if node.startswith(("coordinator", "worker", "postgres")):
            seen[f"server of {node}"] = demo.psql(node, "SELECT pg_postmaster_start_time()", database="postgres")
    return seen


def served(demo: Cluster) -> dict[str, x509.Certificate]:
    """The certificate that each kind of process shows."""
    network = f"citus_ha.{demo.variables['cluster_name']}"
    seen = {}
    for node, port, protocol in SERVED:
        container = demo.docker.containers.get(f"{PREFIX}{node}")
        address = container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # etcd wants one before it shows its own completely
        pki = demo.inventory / ".secrets/pki"
        context.load_cert_chain(pki / f"{PREFIX}{node}.crt", pki / f"{PREFIX}{node}.key")
        with socket.create_connection((address, port), timeout=5) as plain:
            if protocol:
                plain.sendall(struct.pack("!ii", 8, 80877103))
                assert plain.recv(1) == b"S"
            with context.wrap_socket(plain) as secure:
                shown = secure.getpeercert(binary_form=True)
        assert shown
        seen[f"{node}:{port}"] = x509.load_der_x509_certificate(shown)
    return seen


def log_in(demo: Cluster, login: dict[str, str]) -> Outcome:
    """Log in at etcd, as the server that it is."""
    folder, data = "/etc/citus_ha", json.dumps({"name": login["username"], "password": login["password"]})
    return Attacker(demo.docker.containers.get(f"{PREFIX}worker1-1")).run(
        *("curl", "--silent", "--fail-with-body", "--max-time", "5", "--cacert", f"{folder}/tls/ca.crt"),
        *("--cert", f"{folder}/etcd_client/client.crt", "--key", f"{folder}/etcd_client/client.key"),
        *("--data", data, f"https://{PREFIX}etcd-1:2379/v3/auth/authenticate"),
    )


def serials(demo: Cluster) -> dict[str, int]:
    """The serial numbers of those certificates."""
    return {where: certificate.serial_number for where, certificate in served(demo).items()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_certificates_are_renewed_without_a_restart(demo: Cluster, got: Got) -> None:
    before, processes = serials(demo), started(demo)
    keys = {file: file.read_text() for file in (demo.inventory / ".secrets/pki").glob("*.key")}
    with load(demo) as seen:
        # As on the day when fewer days are left than pki_renew_days
        demo.play("site", "-e", "pki_renew_days=366", "-e", "pki_certificate_days=400").succeeded()
        eventually(lambda: set(serials(demo).values()).isdisjoint(before.values()), timeout=30)
    got("renewal of all certificates under load", str(seen))
    assert started(demo) == processes
    assert {file: file.read_text() for file in keys} == keys
    assert demo.play("site").succeeded().changed == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_keys_and_certificates_are_replaced_without_a_restart(demo: Cluster, got: Got) -> None:
    before, processes = served(demo), started(demo)
    with load(demo) as seen:
        demo.play("rotate", "-e", "what=certificates").succeeded()

        def replaced() -> bool:
            now = served(demo)
            return all(now[where].public_key() != before[where].public_key() for where in now)

        eventually(replaced, timeout=30)
    got("new keys and certificates under load", str(seen))
    assert started(demo) == processes
    assert demo.play("site").succeeded().changed == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_passwords_are_replaced(demo: Cluster, got: Got) -> None:
    old, login = demo.password, demo.etcd_login()
    dry = demo.play("rotate", "-e", "what=passwords", "--check").succeeded()
    assert "would replace the passwords of app" in dry.output and dry.changed
    assert demo.password == old and demo.etcd_login() == login
    assert not (demo.inventory / ".secrets/passwords.next").exists()
    processes = started(demo)
    with load(demo) as seen:
        run = demo.play("rotate", "-e", "what=passwords", "-vvv", "--diff").succeeded()
    new = demo.password
    got("new passwords under load", str(seen))
    assert new != old and new not in run.output and old not in run.output
    assert started(demo) == processes
    assert not (demo.inventory / ".secrets/passwords.next").exists()
    for entrance, port in ENTRANCES.items():
        for database in ("app", "app_ro") if port == 26432 else ("app",):
            assert demo.query("SELECT current_user", port=port, dbname=database) == [("app",)]
            with pytest.raises(psycopg2.OperationalError, match="authentication failed") as refused:
                demo.connect(port=port, password=old, dbname=database)
            got(f"the old password at {entrance}, database {database}", str(refused.value).strip())
    # etcd's, which no client of the database has
    assert demo.etcd_login()["password"] != login["password"]
    assert login["password"] not in run.output and demo.etcd_login()["password"] not in run.output
    assert log_in(demo, demo.etcd_login()).code == 0
    outcome = log_in(demo, login)
    got("Patroni's old password at etcd", outcome.got)
    assert outcome.code != 0 and "authentication failed" in outcome.output, outcome.output
    # Every primary has it, also those that clients seldom see
    stored = {demo.psql(demo.leader(group), "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'", "postgres")
              for group in ("coordinator", "worker1", "worker2", "postgres")}  # fmt: skip
    assert len(stored) == 1
    assert demo.play("site").succeeded().changed == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_client_that_does_not_end_its_transaction_stops_the_rotation(demo: Cluster) -> None:
    old = demo.password
    idle = demo.connect()
    try:
        with idle.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1")
            refused = demo.play("rotate", "-e", "what=passwords", "-e", "cluster_drain_timeout=2")
            assert refused.code != 0
            assert "still had transactions open after 2 seconds" in " ".join(refused.output.split()), refused.tail
            cursor.execute("SELECT 2")
            cursor.execute("COMMIT")
    finally:
        idle.close()
    # Nothing was changed, clients go on, also through a pooler that is started anew, and the next run does it.
    assert demo.password == old
    demo.docker.containers.get(f"{PREFIX}pgbouncer-1").restart()
    eventually(lambda: demo.query("SELECT current_user") == [("app",)], timeout=60)
    assert demo.query("SELECT current_user", port=25000) == [("app",)]
    demo.play("rotate", "-e", "what=passwords").succeeded()
    assert demo.password != old
    assert demo.query("SELECT current_user") == [("app",)]


def test_part_of_a_cluster_cannot_have_new_passwords(demo: Cluster) -> None:
    refused = demo.play("rotate", "-e", "what=passwords", "--limit", f"{PREFIX}coordinator-1,{PREFIX}pgbouncer-1")
    assert refused.code != 0
    assert re.search(r"Without .*worker1-1.* cannot be replaced", " ".join(refused.output.split()))
    assert demo.play("rotate").code != 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_authority_is_replaced(demo: Cluster, tmp_path: Path, got: Got) -> None:
    pki = demo.inventory / ".secrets/pki"
    old = {
        name: (pki / name).read_text()
        for name in ("ca.crt", "ca.key", f"{PREFIX}worker2-1.crt", f"{PREFIX}worker2-1.key")
    }
    (tmp_path / "ca.crt").write_text(old["ca.crt"])
    with load(demo) as seen:
        demo.play("rotate", "-e", "what=authority", "-e", "rotate_authority=begin").succeeded()
        # Clients with the old authority's certificate, and those with the new file
        assert demo.query("SELECT 1", sslrootcert=str(tmp_path / "ca.crt")) == demo.query("SELECT 1")
        assert (pki / "ca.crt").read_text().count("BEGIN CERTIFICATE") == 2
        demo.play("rotate", "-e", "what=authority").succeeded()
    got("a new authority under load", str(seen))
    assert (pki / "ca.crt").read_text().count("BEGIN CERTIFICATE") == 1
    assert (pki / "ca.key").read_text() != old["ca.key"]
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        demo.connect(sslrootcert=str(tmp_path / "ca.crt"))
    # A node's certificate of the old authority opens nothing, where it belongs
    node = Attacker(demo.docker.containers.get(f"{PREFIX}worker2-1"))
    node.put({"old.crt": old[f"{PREFIX}worker2-1.crt"], "old.key": old[f"{PREFIX}worker2-1.key"]})
    pair = ("--cert", "/tmp/loot/old.crt", "--key", "/tmp/loot/old.key")
    trust = ("curl", "--silent", "--show-error", "--max-time", "5", "--cacert", "/etc/citus_ha/tls/ca.crt")
    for what, argv in {
        "PostgreSQL": (
            "psql", "-XAtwc", "SELECT 1", f"host={PREFIX}worker1-1 user=app dbname=app sslmode=verify-full"
            " sslrootcert=/etc/citus_ha/tls/ca.crt sslcert=/tmp/loot/old.crt sslkey=/tmp/loot/old.key",
        ),
        "etcd": (*trust, *pair, "--data", "{}", f"https://{PREFIX}etcd-1:2379/v3/cluster/member/list"),
        "Patroni": (*trust, *pair, "--request", "POST", f"https://{PREFIX}worker1-1:8008/reload"),
    }.items():  # fmt: skip
        outcome = node.run(*argv)
        got(f"a certificate of the old authority at {what}", outcome.got)
        assert outcome.code != 0 and re.search("unknown ca|alert|bad certificate", outcome.output), outcome.output
    assert demo.play("verify").code == 0
    assert demo.play("site").succeeded().changed == {}
