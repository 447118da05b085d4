# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The options with which every module connects, each on a server where it makes the difference."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import connection_argument_spec
from citus_cluster import Cluster, call_here
from servers import PORT, Server, servers

MODULE = "citus_info"

# One authority, a certificate for the server under the address the test reaches it by, and one for the role "guest".
CERTIFICATES = """
cd "$1"
key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
subject() { openssl req $key -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>/dev/null; }
openssl req -x509 $key -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=ca 2>/dev/null
openssl req -x509 $key -nodes -days 2 -keyout other.key -out other.crt -subj /CN=other 2>/dev/null
subject server "$2" && subject guest guest
printf 'subjectAltName=IP:%s' "$2" > extension
openssl x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extension -out server.crt
openssl x509 -req -days 2 -in guest.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out guest.crt
chmod 0600 ./*.key
"""
HBA = (
    "local all all trust",
    "hostssl all guest all cert",
    "hostssl all reader all scram-sha-256",
    "host all postgres all trust",
)


@dataclass(frozen=True)
class Site:
    """A server with TLS, and the files to come to it with."""

    server: Server
    files: Path

    def call(self, **options: Any) -> dict[str, Any]:
        """The module's result over a verified connection, unless the options say otherwise."""
        given = {
            "login_host": self.server.address,
            "login_port": PORT,
            "login_db": "app",
            "ssl_mode": "verify-full",
            "ca_cert": str(self.files / "ca.crt"),
            "gather": ["nodes"],
            **options,
        }
        return call_here(MODULE, **{name: value for name, value in given.items() if value is not None})

    def user(self, **options: Any) -> str:
        """The role that the module works as."""
        result = self.call(**options)
        assert not result.get("failed"), result["msg"]
        return str(result["server"]["user"])

    def refused(self, **options: Any) -> str:
        """Why it does not work, and that the message says what to look at."""
        result = self.call(**options)
        assert result.get("failed"), result
        assert "exception" not in result
        return str(result["msg"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with servers(["coordinator"], hba=HBA) as started:
        server = started["coordinator"]
        server.query("CREATE DATABASE app")
        server.query("CREATE EXTENSION citus", dbname="app")
        server.query("CREATE ROLE guest LOGIN; CREATE ROLE reader LOGIN PASSWORD 'read it'")
        made = "/run/postgresql"
        server.run(["sh", "-euc", CERTIFICATES, "sh", made, server.address])
        for name in ("ssl_cert_file = server.crt", "ssl_key_file = server.key", "ssl_ca_file = ca.crt"):
            option, _equals, file = name.split()
            server.query(f"ALTER SYSTEM SET {option} = '{made}/{file}'")
        server.query("ALTER SYSTEM SET ssl = on")
        server.query("SELECT pg_reload_conf()")
        files = tmp_path_factory.mktemp("tls")
        for file in ("ca.crt", "other.crt", "guest.crt", "guest.key"):
            ((text,),) = server.query("SELECT pg_read_file(%s)", [f"{made}/{file}"])
            (files / file).write_text(text)
            (files / file).chmod(0o600)
        deadline = time.monotonic() + 20
        while server.query("SELECT count(*) FROM pg_settings WHERE name = 'ssl' AND setting = 'on'") != [(1,)]:
            assert time.monotonic() < deadline
        yield Site(server, files)


def test_where_and_as_whom(site: Site) -> None:
    """login_host, login_port, login_db; login_user with a password, and with a certificate."""
    assert site.user() == "postgres"
    assert site.user(login_user="reader", login_password="read it") == "reader"
    certificate = {"ssl_cert": str(site.files / "guest.crt"), "ssl_key": str(site.files / "guest.key")}
    assert site.user(login_user="guest", **certificate) == "guest"
    assert "password authentication failed" in site.refused(login_user="reader", login_password="wrong")
    assert "certificate" in site.refused(login_user="guest")
    assert f"{site.server.address}:1/app as postgres" in site.refused(login_port=1)
    assert 'database "nowhere" does not exist' in site.refused(login_db="nowhere")
    assert "does not have the citus extension" in site.refused(login_db="postgres")


def test_a_password_is_never_shown(site: Site) -> None:
    for options in ({"login_password": "wr0ng"}, {"connect_params": {"password": "wr0ng"}}):
        assert "wr0ng" not in json.dumps(site.call(login_user="reader", **options))
    assert site.user(login_user="reader", connect_params={"password": "read it"}) == "reader"


def test_tls(site: Site) -> None:
    """ssl_mode and ca_cert."""
    guest = {"login_user": "reader", "login_password": "read it"}
    assert site.user(**guest, ssl_mode="require", ca_cert=None) == "reader"
    assert "no encryption" in site.refused(**guest, ssl_mode="disable", ca_cert=None)
    assert "certificate verify failed" in site.refused(**guest, ca_cert=str(site.files / "other.crt"))
    assert "does not exist" in site.refused(**guest, ca_cert=str(site.files / "none.crt"))


def test_further_parameters_of_libpq(site: Site) -> None:
    """They reach the server, and the module's own options win over them."""
    assert site.user(connect_params={"options": "-c role=reader", "user": "guest"}) == "reader"
    assert 'invalid connection option "no_such"' in site.refused(connect_params={"no_such": 1})


def test_connect_timeout(site: Site) -> None:
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        message = site.refused(login_host="127.0.0.1", login_port=silent.getsockname()[1], connect_timeout=2)
    assert "timeout expired" in message
    assert 1 <= time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("option", "words"),
    [("lock_timeout", "canceling statement due to lock timeout"), ("statement_timeout", "due to statement timeout")],
)
def test_timeouts_of_statements(site: Site, option: str, words: str) -> None:
    blocker = site.server.connect(dbname="app")
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE pg_dist_colocation IN ACCESS EXCLUSIVE MODE")
    try:
        assert words in site.refused(gather=["colocation_groups"], **{option: 500})
    finally:
        blocker.close()


def test_said_once_for_all_modules(site: Site, tmp_path: Path) -> None:
    """The action group: module_defaults for every module of the collection that connects to PostgreSQL."""
    options = {name: site.server.address if name == "login_host" else "app" for name in ("login_host", "login_db")}
    tasks = [
        {"citus_ha.cluster.citus_info": {"gather": ["nodes"]}, "register": "seen"},
        {"citus_ha.cluster.citus_node": {"nodes": [{"name": "coordinator", "group": 0}]}},
        {"citus_ha.cluster.citus_distribute": {"name": "events", "column": "id"}},
        {"citus_ha.cluster.citus_rebalance": {}, "check_mode": True},
        {"ansible.builtin.debug": {"msg": "asked {{ seen.server.database }} as {{ seen.server.user }}"}},
    ]
    site.server.query("CREATE TABLE IF NOT EXISTS events (id int PRIMARY KEY)", dbname="app")
    site.server.query("SELECT citus_set_coordinator_host('coordinator', 5432)", dbname="app")
    site.server.query("SELECT citus_set_node_property('coordinator', 5432, 'shouldhaveshards', true)", dbname="app")
    block = {"block": tasks, "module_defaults": {"group/citus_ha.cluster.postgresql": options}}
    assert "asked app as postgres" in Cluster({"coordinator": site.server}, "").play(tmp_path, block)
    assert site.server.query("SELECT count(*) FROM pg_dist_partition", dbname="app") == [(1,)]


def test_every_option_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [option for option in connection_argument_spec() if option not in text] == []
