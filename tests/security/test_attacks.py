# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Everything an attacker would try on a cluster as ``site.yml`` leaves it: all refused, with the refusal that is due.

A wrong refusal, such as a name that does not resolve, proves nothing: each attempt names the answer that it must get.
The attempts are functions of the attacker, so that test_weakened.py can run the same ones where they must succeed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni_etcd
from attackers import LOOT, NODE, Attacker, Outcome, attacker
from cluster import PREFIX, Cluster

CA = f"sslmode=verify-full sslrootcert={LOOT}/ca.crt"
SERVERS = ("coordinator-1", "coordinator-2", "worker1-1", "worker2-2", "postgres-1")
SILENT = "sslcert=/nonexistent sslkey=/nonexistent"
PATRONI = f"https://{PREFIX}worker1-1:8008"
ETCD = f"https://{PREFIX}etcd-1:2379"
TRUST_IN_NODE = f"curl --http1.1 --silent --show-error --max-time 5 --cacert {NODE.removesuffix('node')}ca.crt"
TRUST = ("curl", "--silent", "--show-error", "--max-time", "5", "--cacert", f"{LOOT}/ca.crt")


def pair(name: str) -> str:
    """Libpq's parameters for one of the attacker's key pairs."""
    return f"sslcert={LOOT}/{name}.crt sslkey={LOOT}/{name}.key"


def server(node: str, port: int = 5432) -> str:
    """Where a server is, as libpq takes it."""
    return f"host={PREFIX}{node} port={port} dbname=app"


def options(name: str) -> list[str]:
    """curl's options for one of the attacker's key pairs."""
    return ["--cert", f"{LOOT}/{name}.crt", "--key", f"{LOOT}/{name}.key"]


def etcdctl(*arguments: str, scheme: str = "https", name: str = "") -> list[str]:
    """etcdctl with one of the attacker's key pairs, or without any."""
    endpoint = f"--endpoints={scheme}://{PREFIX}etcd-1:2379"
    # etcdctl tries again for ever what TLS refuses
    limits = ["--dial-timeout=2s", "--command-timeout=3s"]
    pair_of = [f"--cert={LOOT}/{name}.crt", f"--key={LOOT}/{name}.key"] if name else []
    return ["etcdctl", f"--cacert={LOOT}/ca.crt", *pair_of, endpoint, *limits, *arguments]


def gateway(path: str, data: dict[str, Any], *options: str) -> list[str]:
    """A call of etcd's JSON gateway; what is no 200 is a failure, with etcd's words."""
    return [*TRUST, "--fail-with-body", *options, "--data", json.dumps(data), f"{ETCD}/v3/{path}"]


def unsafe(method: str, path: str, *options: str) -> list[str]:
    """A call of Patroni's REST API that changes something."""
    return [*TRUST, "--request", method, "--data", "{}", "--write-out", " %{http_code}", *options, f"{PATRONI}{path}"]


@pytest.fixture(scope="module")
def inside(demo: Cluster) -> Iterator[Attacker]:
    """A container on the cluster's network."""
    with attacker(demo, "attacker-inside", f"citus_ha.{demo.variables['cluster_name']}") as made:
        yield made


@pytest.fixture(scope="module")
def outside(demo: Cluster) -> Iterator[Attacker]:
    """A container on the same machine, on Docker's default network."""
    with attacker(demo, "attacker-outside", "bridge") as made:
        yield made


Got = Callable[[str, str], None]


def refused(got: Got, attempt: str, outcome: Outcome, answer: str) -> None:
    """Note the attempt, and see that it got the refusal that is due."""
    got(attempt, outcome.got)
    assert outcome.code != 0, f"{attempt} got in:\n{outcome.output}"
    assert re.search(answer, outcome.output, re.IGNORECASE), f"{attempt} was refused otherwise:\n{outcome.output}"


# ---- PostgreSQL


NO_ENTRY = r"no pg_hba\.conf entry|pg_hba\.conf rejects"
SQL: list[tuple[str, str, str]] = [
    ("no credentials", f"user=app {CA}", NO_ENTRY),
    ("no TLS", "user=app sslmode=disable", f"{NO_ENTRY}.*no encryption"),
    ("the superuser", f"user=postgres {CA}", NO_ENTRY),
    ("the replication role", f"user=replicator replication=true {CA}", NO_ENTRY),
    ("the rewind role", f"user=rewind {CA}", NO_ENTRY),
    ("a foreign certificate", f"user=postgres {CA} {pair('foreign')}", "unknown ca|decrypt error|bad certificate"),
    ("an expired certificate", f"user=postgres {CA} {pair('expired')}", "certificate expired"),
    ("a server's stolen certificate elsewhere", f"user=postgres {CA} {pair('stolen')}", NO_ENTRY),
    ("replication with it", f"user=replicator replication=true {CA} {pair('stolen')}", NO_ENTRY),
]


@pytest.mark.parametrize(("attempt", "conninfo", "answer"), SQL, ids=[entry[0] for entry in SQL])
@pytest.mark.parametrize("node", SERVERS)
def test_postgresql(inside: Attacker, got: Got, node: str, attempt: str, conninfo: str, answer: str) -> None:
    conninfo = f"{server(node)} {conninfo}"
    if "sslcert" not in conninfo:
        conninfo += f" {SILENT}"
    refused(got, f"PostgreSQL of {node}, {attempt}", inside.sql(conninfo, password="wrong"), answer)


def test_postgresql_lets_its_nodes_in(demo: Cluster) -> None:
    # The same tool with a certificate where it belongs: what the attacker lacks is the right, not the way.
    node = Attacker(demo.docker.containers.get(f"{PREFIX}worker1-1"))
    tls = f"sslmode=verify-full sslrootcert=/etc/citus_ha/tls/ca.crt sslcert={NODE}.crt sslkey={NODE}.key"
    outcome = node.sql(f"{server('coordinator-1')} user=app {tls}")
    assert (outcome.code, outcome.output.strip()) == (0, "app")


CLIENT: list[tuple[str, dict[str, Any], str]] = [
    ("the superuser", {"user": "postgres", "password": "wrong"}, r"pg_hba\.conf rejects"),
    ("the replication role", {"user": "replicator", "password": "wrong"}, r"pg_hba\.conf rejects"),
    ("the role of the health check", {"user": "haproxy", "password": "wrong"}, r"pg_hba\.conf rejects"),
    ("a wrong password", {"password": "wrong"}, "password authentication failed"),
    ("no TLS", {"sslmode": "disable"}, "no encryption"),
    ("physical replication as the application", {"replication": "true"}, NO_ENTRY),
    ("logical replication as the application", {"replication": "database"}, "permission denied to start WAL sender"),
]


@pytest.mark.parametrize(("attempt", "parameters", "answer"), CLIENT, ids=[entry[0] for entry in CLIENT])
@pytest.mark.parametrize("port", [25432, 25000], ids=["direct", "haproxy"])
def test_postgresql_from_a_client_address(
    demo: Cluster, got: Got, port: int, attempt: str, parameters: dict[str, Any], answer: str
) -> None:
    refused(
        got,
        f"client address, port {port}, {attempt}",
        session(demo, {"port": port, **parameters}),
        answer,
    )


def session(demo: Cluster, parameters: dict[str, Any], statement: str = "SELECT current_user") -> Outcome:
    """A statement as the application role, from this machine."""
    try:
        # Clients' password files name no server of their own: it is given. A busy machine is no refusal.
        given = {"password": demo.password, "connect_timeout": 20, **parameters}
        return Outcome(0, str(demo.query(statement, **given)))
    except psycopg2.Error as error:
        return Outcome(1, str(error))


ROLE = [
    ("reading other roles' hashes", "SELECT rolpassword FROM pg_authid"),
    ("the same by pg_shadow", "SELECT passwd FROM pg_shadow"),
    ("reading node-to-node passwords", "SELECT * FROM pg_dist_authinfo"),
    ("becoming the superuser", "SET ROLE postgres"),
    ("making a superuser", "CREATE ROLE attacker SUPERUSER LOGIN"),
    ("taking the superuser's right", "GRANT postgres TO app"),
    ("reading a key", "SELECT pg_read_file('/etc/citus_ha/tls/node.key')"),
    ("reading a key by COPY", "CREATE TEMPORARY TABLE loot (line text); COPY loot FROM '/etc/citus_ha/tls/node.key'"),
    ("running a program", "CREATE TEMPORARY TABLE loot (line text); COPY loot FROM PROGRAM 'id'"),
    ("reading it by lo_import", "SELECT lo_import('/etc/citus_ha/tls/node.key')"),
    ("changing the configuration", "ALTER SYSTEM SET ssl = off"),
    ("connecting servers elsewhere", "SET citus.node_conninfo = 'sslmode=disable'"),
    ("loading a library", "LOAD '/tmp/attack.so'"),
    ("an extension that leads out", "CREATE EXTENSION dblink"),
    ("a subscription that leads out", "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = false)"),
    ("adding a node", "SELECT citus_add_node('attacker', 5432)"),
    ("removing a node", "SELECT citus_remove_node('attacker', 5432)"),
    ("ending sessions", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'"),
    ("a switch of the log", "SET log_statement = 'none'"),
]


@pytest.mark.parametrize(("attempt", "statement"), ROLE, ids=[entry[0] for entry in ROLE])
@pytest.mark.parametrize("port", [25000, 26432], ids=["haproxy", "pgbouncer"])
def test_the_application_role(demo: Cluster, got: Got, port: int, attempt: str, statement: str) -> None:
    if "node_conninfo" in statement and "stand-in" in demo.query("SELECT citus_version()")[0][0]:
        pytest.skip("the stand-in has no settings of its own")
    outcome = session(demo, {"port": port}, statement)
    answer = "permission denied|must be|only roles|not allowed|cannot be changed|not exist"
    refused(got, f"application role on port {port}, {attempt}", outcome, answer)


# ---- PgBouncer


POOLER = [
    ("no password", f"user=app {CA}", None, "no password supplied|password authentication failed"),
    ("a wrong password", f"user=app {CA}", "wrong", "authentication failed"),
    ("no TLS", "user=app sslmode=disable", None, "SSL required"),
    ("a role that is not there", f"user=attacker {CA}", "wrong", "authentication failed"),
    ("the superuser", f"user=postgres {CA}", "wrong", "authentication failed"),
    ("a foreign certificate instead", f"user=app {CA} {pair('foreign')}", None, "no password supplied|failed"),
    ("the admin console by its user", f"user=pgbouncer dbname=pgbouncer {CA}", "wrong", "authentication failed"),
]


@pytest.mark.parametrize(("attempt", "conninfo", "secret", "answer"), POOLER, ids=[entry[0] for entry in POOLER])
def test_pgbouncer(inside: Attacker, got: Got, attempt: str, conninfo: str, secret: str | None, answer: str) -> None:
    if "sslcert" not in conninfo:
        conninfo += f" {SILENT}"
    outcome = inside.sql(f"{server('pgbouncer-1', 6432)} {conninfo}", password=secret)
    refused(got, f"PgBouncer, {attempt}", outcome, answer)


def test_pgbouncer_takes_the_right_password(demo: Cluster, inside: Attacker) -> None:
    outcome = inside.sql(f"{server('pgbouncer-1', 6432)} user=app {CA} {SILENT}", password=demo.password)
    assert (outcome.code, outcome.output.strip()) == (0, "app")


def test_the_console_is_not_roots(demo: Cluster, got: Got) -> None:
    root = Attacker(demo.docker.containers.get(f"{PREFIX}pgbouncer-1"), user="root")
    for role in ("pgbouncer", "root"):
        outcome = root.sql(f"host=/run/pgbouncer port=6432 user={role} dbname=pgbouncer", "SHOW CONFIG")
        refused(
            got, f"PgBouncer's console as root over its socket, as {role}", outcome, "failed|no such user|not allowed"
        )


@pytest.mark.parametrize("node", ["worker1-1", "coordinator-1"])
def test_a_servers_own_address_is_not_enough(demo: Cluster, got: Got, node: str) -> None:
    server = Attacker(demo.docker.containers.get(f"{PREFIX}{node}"))
    target = f"host={PREFIX}{node} sslmode=verify-full sslrootcert=/etc/citus_ha/tls/ca.crt sslcert=/nonexistent"
    for role, database in (("postgres", "app"), ("app", "app"), ("replicator", "replication=true")):
        outcome = server.sql(f"{target} user={role} " + (database if "=" in database else f"dbname={database}"))
        refused(
            got, f"{node} from its own address without a certificate, as {role}", outcome, "requires a valid client"
        )


@pytest.mark.parametrize("command", ["SHOW USERS", "SHOW CONFIG", "PAUSE", "SHUTDOWN"])
def test_pgbouncers_console_as_the_application_role(demo: Cluster, inside: Attacker, got: Got, command: str) -> None:
    conninfo = f"host={PREFIX}pgbouncer-1 port=6432 dbname=pgbouncer user=app {CA} {SILENT}"
    outcome = inside.sql(conninfo, command, demo.password)
    refused(got, f"PgBouncer's console as app, {command}", outcome, "not allowed|denied")


# ---- TLS


OLD = [
    (f"{PREFIX}{node}:{port}", *options)
    for node, port, options in [
        ("coordinator-1", 5432, ("-starttls", "postgres")),
        ("postgres-1", 5432, ("-starttls", "postgres")),
        ("pgbouncer-1", 6432, ("-starttls", "postgres")),
        ("pgbouncer-1-haproxy", 5000, ("-starttls", "postgres")),
        ("worker1-1", 8008, ()),
        ("etcd-1", 2379, ()),
        ("etcd-1", 2380, ()),
    ]
]


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
@pytest.mark.parametrize("target", OLD, ids=lambda target: target[0].removeprefix(PREFIX))
def test_old_tls(inside: Attacker, got: Got, target: tuple[str, ...], version: str) -> None:
    outcome = inside.tls(*target, version, "-cipher", "ALL:@SECLEVEL=0")
    refused(
        got, f"{target[0]} with {version}", outcome, "alert protocol version|alert handshake failure|alert internal"
    )


# etcd's library has ciphers of this kind, and chooses them when a client has no better.
@pytest.mark.parametrize("target", OLD[:-2], ids=lambda target: target[0].removeprefix(PREFIX))
def test_a_weak_cipher(inside: Attacker, got: Got, target: tuple[str, ...]) -> None:
    outcome = inside.tls(*target, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA")
    refused(got, f"{target[0]} with a cipher without authentication", outcome, "alert handshake failure")


# etcd's members take nobody else: test_etcds_members_are_no_other_nodes.
@pytest.mark.parametrize("target", OLD[:-1], ids=lambda target: target[0].removeprefix(PREFIX))
def test_new_tls(inside: Attacker, target: tuple[str, ...]) -> None:
    # etcd wants a certificate before anything else; PgBouncer takes none, as it has no authority to check it with.
    files = ("-cert", f"{LOOT}/stolen.crt", "-key", f"{LOOT}/stolen.key") if ":23" in target[0] else ()
    outcome = inside.tls(*target, "-tls1_2", *files)
    assert outcome.code == 0, outcome.output


def test_the_attacker_speaks_old_tls(inside: Attacker) -> None:
    files = f"-cert {LOOT}/foreign.crt -key {LOOT}/foreign.key"
    old = "-tls1_1 -cipher ALL:@SECLEVEL=0"
    # A server with pages to show does not wait for words on its input, nor end with them.
    outcome = inside.run(
        *("sh", "-c"),
        f"openssl s_server -www -accept 7777 {old} {files} & server=$!; code=1;"
        " for try in 1 2 3 4 5 6 7 8 9; do"
        f" openssl s_client -connect 127.0.0.1:7777 {old} </dev/null && code=0 && break || sleep 0.5; done;"
        ' kill "$server"; exit "$code"',
    )
    assert outcome.code == 0, outcome.output


# ---- etcd


REFUSED_BY_TLS = (
    "certificate required|bad certificate|unknown (certificate )?authority|unknown ca|expired|handshake failure"
)
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("reading", "kv/range", {"key": "Lw==", "range_end": "MA=="}),
    ("writing", "kv/put", {"key": "Lw==", "value": "MQ=="}),
    ("revoking a lease", "lease/revoke", {"ID": "1234"}),
    ("listing leases", "lease/leases", {}),
    ("adding a member", "cluster/member/add", {"peerURLs": ["https://attacker:2380"]}),
    ("a snapshot", "maintenance/snapshot", {}),
]
HOW = [("no certificate", []), *((f"a certificate that is {name}", options(name)) for name in ("foreign", "expired"))]
KEYS = [
    (f"{what} with {how}", [*TRUST, *tls, "--data", json.dumps(data), f"{ETCD}/v3/{path}"], f"{REFUSED_BY_TLS}|alert")
    for what, path, data in CALLS
    for how, tls in HOW
]
# The client that everybody has says no more than that its time was up.
KEYS.append(("reading by etcdctl", etcdctl("get", "--prefix", "/"), "deadline exceeded"))
KEYS.append(("reading without TLS", etcdctl("get", "--prefix", "/", scheme="http"), "deadline exceeded"))
KEYS += [
    ("a peer's port", [*TRUST, f"https://{PREFIX}etcd-1:2380/members"], REFUSED_BY_TLS + "|alert"),
    ("the metrics", [*TRUST, f"http://{PREFIX}etcd-1:2381/metrics"], "refused|couldn't connect|could not connect"),
]


@pytest.mark.parametrize(("attempt", "argv", "answer"), KEYS, ids=[entry[0] for entry in KEYS])
def test_etcd(inside: Attacker, got: Got, attempt: str, argv: list[str], answer: str) -> None:
    refused(got, f"etcd, {attempt}", inside.run(*argv), answer)


EVERYTHING = {"key": "Lw==", "range_end": "MA=="}
# etcd knows a user by the name in a certificate, and none of this name. Its gateway takes no certificate with a name.
STOLEN = [
    ("reading", etcdctl("get", "--prefix", "/", name="stolen"), "permission denied"),
    ("writing", etcdctl("put", "/citus_ha/attack", "1", name="stolen"), "permission denied"),
    ("adding a member", etcdctl("member", "add", "x", "--peer-urls=https://x:2380", name="stolen"), "name not found"),
    ("listing users", etcdctl("user", "list", name="stolen"), "user name not found"),
    ("ending authentication", etcdctl("auth", "disable", name="stolen"), "user name not found"),
    ("a snapshot", etcdctl("snapshot", "save", "/tmp/loot/etcd", name="stolen"), "user not found"),
    ("reading through the gateway", gateway("kv/range", EVERYTHING, *options("stolen")), "CommonName of client"),
]
LOGIN = {"name": "patroni", "password": "wrong"}
# Without a name in it the gateway takes it, and demands a password. Without this header it would be the member's own
# certificate that counts.
SILENT_CLIENT = ("--header", "Accept:")
NAMELESS = [
    ("reading", gateway("kv/range", EVERYTHING, *options("nameless")), "user name is empty"),
    ("reading as the member", gateway("kv/range", EVERYTHING, *options("nameless"), *SILENT_CLIENT), "denied"),
    ("adding a member", gateway("cluster/member/add", CALLS[4][2], *options("nameless")), "user name is empty"),
    ("adding it as the member", gateway("cluster/member/add", CALLS[4][2], *options("nameless"), *SILENT_CLIENT),
     "user name not found"),
    ("a wrong password", gateway("auth/authenticate", LOGIN, *options("nameless")), "authentication failed"),
    ("the administrator's", gateway("auth/authenticate", {"name": "root", "password": ""}, *options("nameless")),
     "authentication failed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("attempt", "argv", "answer"),
    [(f"a server's stolen certificate, {what}", *rest) for what, *rest in STOLEN]
    + [(f"its certificate without a name, {what}", *rest) for what, *rest in NAMELESS],
)
def test_etcd_with_a_stolen_certificate(inside: Attacker, got: Got, attempt: str, argv: list[str], answer: str) -> None:
    refused(got, f"etcd, {attempt}", inside.run(*argv), answer)


@pytest.mark.parametrize("node", ["pgbouncer-1", "worker1-1"])
def test_etcds_members_are_no_other_nodes(demo: Cluster, got: Got, node: str) -> None:
    """With a node's own certificate, from its own address."""
    asked = f"{TRUST_IN_NODE} https://{PREFIX}etcd-1:2380/members".split()
    own = Attacker(demo.docker.containers.get(f"{PREFIX}{node}"))
    outcome = own.run(*asked, "--cert", f"{NODE}.crt", "--key", f"{NODE}.key")
    refused(got, f"etcd, a peer's port with the certificate of {node}", outcome, "alert")
    member = Attacker(demo.docker.containers.get(f"{PREFIX}etcd-2"))
    files = ("--cert", "/etc/citus_ha/etcd_client/client.crt", "--key", "/etc/citus_ha/etcd_client/client.key")
    assert member.run(*asked, *files).code == 0


def test_leases_are_revoked_by_their_owners_alone(demo: Cluster, inside: Attacker, got: Got) -> None:
    administrator = ("--cert=/etc/citus_ha/etcd_client/client.crt", "--key=/etc/citus_ha/etcd_client/client.key")
    trust = ("--cacert=/etc/citus_ha/tls/ca.crt", f"--endpoints={ETCD}")
    listed = demo.inside("etcd-1", "etcdctl", *trust, *administrator, "lease", "list").split()
    leases = [lease for lease in listed if re.fullmatch("[0-9a-f]{16}", lease)]
    assert len(leases) >= 3
    for lease in leases:
        outcome = inside.run(*etcdctl("lease", "revoke", lease, name="stolen"))
        refused(got, "etcd, a server's stolen certificate, revoking a lease", outcome, "permission denied")
        outcome = inside.run(*gateway("lease/revoke", {"ID": str(int(lease, 16))}, *options("nameless")))
        refused(got, "etcd, its certificate without a name, revoking a lease", outcome, "user name is empty")


def test_patronis_password_opens_its_own_keys_alone(demo: Cluster, inside: Attacker, got: Got) -> None:
    login = demo.etcd_login()
    opened = inside.run(
        *gateway("auth/authenticate", {"name": login["username"], "password": login["password"]}, *options("nameless"))
    )
    assert opened.code == 0, opened.output
    token = ("--header", f"Authorization: {json.loads(opened.output)['token']}", *options("nameless"))
    prefix = f"/citus_ha/{demo.variables['cluster_name']}/"
    found = inside.run(*gateway("kv/range", _patroni_etcd.prefix_range(prefix), *token))
    assert found.code == 0 and int(json.loads(found.output)["count"]) > 10, found.output
    for attempt, path, data in [
        ("reading everything", "kv/range", EVERYTHING),
        ("reading another cluster's keys", "kv/range", _patroni_etcd.prefix_range("/citus_ha/other/")),
        ("writing another key", "kv/put", {"key": "Lw==", "value": "MQ=="}),
        ("adding a member", "cluster/member/add", CALLS[4][2]),
        ("a user of its own", "auth/user/add", {"name": "x", "password": "x"}),
        ("ending authentication", "auth/disable", {}),
        ("a snapshot", "maintenance/snapshot", {}),
    ]:
        outcome = inside.run(*gateway(path, data, *token))
        refused(got, f"etcd, Patroni's password, {attempt}", outcome, "permission denied")


# ---- Patroni, HAProxy


UNSAFE = [
    ("POST", "/restart"),
    ("POST", "/reload"),
    ("POST", "/switchover"),
    ("DELETE", "/switchover"),
    ("POST", "/failover"),
    ("POST", "/reinitialize"),
    ("POST", "/sigterm"),
    ("POST", "/citus"),
    ("PATCH", "/config"),
    ("PUT", "/config"),
]


@pytest.mark.parametrize(("method", "path"), UNSAFE, ids=[" ".join(entry) for entry in UNSAFE])
def test_patroni_without_a_certificate(inside: Attacker, got: Got, method: str, path: str) -> None:
    outcome = inside.run(*unsafe(method, path))
    got(f"Patroni, {method} {path} without a certificate", outcome.output.strip())
    assert outcome.output.endswith(" 403"), outcome.output


@pytest.mark.parametrize(("method", "path"), UNSAFE, ids=[" ".join(entry) for entry in UNSAFE])
def test_patroni_with_a_stolen_certificate(inside: Attacker, got: Got, method: str, path: str) -> None:
    outcome = inside.run(*unsafe(method, path, *options("stolen")))
    got(f"Patroni, {method} {path} with a server's stolen certificate elsewhere", outcome.output.strip())
    assert outcome.output.endswith(" 403"), outcome.output


def test_patroni_with_a_poolers_certificate(demo: Cluster, got: Got) -> None:
    pooler = Attacker(demo.docker.containers.get(f"{PREFIX}pgbouncer-1"))
    own = ("--cert", f"{NODE}.crt", "--key", f"{NODE}.key", "--cacert", "/etc/citus_ha/tls/ca.crt")
    outcome = pooler.run(*unsafe("POST", "/restart", *own))
    got("Patroni, POST /restart by a pooler", outcome.output.strip())
    assert outcome.output.endswith(" 403"), outcome.output


@pytest.mark.parametrize("files", ["foreign", "expired"])
def test_patroni_with_a_wrong_certificate(inside: Attacker, got: Got, files: str) -> None:
    outcome = inside.run(*unsafe("POST", "/restart", *options(files)))
    refused(got, f"Patroni, POST /restart with a certificate that is {files}", outcome, "alert|reset|broken pipe")


def test_patroni_without_tls(inside: Attacker, got: Got) -> None:
    outcome = inside.run("curl", "--silent", "--show-error", "--max-time", "5", PATRONI.replace("https", "http"))
    refused(got, "Patroni without TLS", outcome, "empty reply|reset|HTTP/0.9|timed out")


def test_patroni_answers_health_checks(inside: Attacker) -> None:
    assert inside.run(*TRUST, "--fail", f"{PATRONI}/readiness").code == 0


@pytest.mark.parametrize("port", [8404, 5432])
def test_haproxy_shows_its_statistics_to_nobody(inside: Attacker, got: Got, port: int) -> None:
    outcome = inside.run(*TRUST, f"http://{PREFIX}pgbouncer-1-haproxy:{port}/")
    refused(got, f"HAProxy, port {port}", outcome, "refused|couldn't connect|could not connect")


# ---- From outside


KNOCK = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def knock(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError as error:
        return None
    return target
with ThreadPoolExecutor(200) as all_at_once:
    print(" ".join(filter(None, all_at_once.map(knock, sys.argv[1:]))))
"""
PORTS = (2379, 2380, 2381, 5432, 8008, 6432, 5000, 5001, 8404, 9100, 9187)


def test_outside_there_is_no_way_to_a_node(demo: Cluster, inside: Attacker, outside: Attacker, got: Got) -> None:
    network = f"citus_ha.{demo.variables['cluster_name']}"
    addresses = [c.attrs["NetworkSettings"]["Networks"][network]["IPAddress"] for c in demo.containers()]
    targets = [f"{address}:{port}" for address in addresses for port in PORTS]
    # The same knocks from inside find the doors.
    assert len(inside.run("python3", "-c", KNOCK, *targets, seconds=30).output.split()) > 20
    answered = outside.run("python3", "-c", KNOCK, *targets, seconds=30)
    got(f"another network, {len(targets)} ports of the nodes", answered.output.strip() or "no answer from any")
    assert (answered.code, answered.output.split()) == (0, [])


def test_ports_are_published_for_this_machine_alone(demo: Cluster, outside: Attacker, got: Got) -> None:
    published = [
        (binding["HostIp"], binding["HostPort"])
        for container in demo.containers()
        for bindings in (container.attrs["HostConfig"]["PortBindings"] or {}).values()
        for binding in bindings
    ]
    assert len(published) == 5
    assert {address for address, _port in published} == {"127.0.0.1"}
    gateway = demo.docker.networks.get("bridge").attrs["IPAM"]["Config"][0].get("Gateway", "172.17.0.1")
    answered = outside.run("python3", "-c", KNOCK, *(f"{gateway}:{port}" for _address, port in published))
    got("another network, published ports", answered.output.strip() or "no answer from any")
    assert (answered.code, answered.output.split()) == (0, [])
