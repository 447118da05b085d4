# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The inventory plugin ``patroni``: what Patroni's keys in etcd mean, and what becomes of them."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils import _patroni_etcd
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import (
    CitusHaError,
    ConnectionFailed,
    ServerError,
)
from hostile import HOSTILE, hundred
from hypothesis import given
from hypothesis import strategies as st

COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"


def data(name: str, **more: Any) -> str:
    return json.dumps(
        {
            "conn_url": f"postgres://{name}.example.org:5433/postgres",
            "api_url": f"https://{name}.example.org:8008/patroni",
            "state": "running",
            "role": "replica",
            "timeline": 3,
            **more,
        }
    )


KEYS = {
    "/service/shop/0/config": "{}",
    "/service/shop/0/leader": "coordinator-1",
    "/service/shop/0/members/coordinator-1": data("coordinator-1", role="primary"),
    "/service/shop/0/members/coordinator-2": data("coordinator-2", replication_state="streaming"),
    "/service/shop/0/sync": '{"leader": "coordinator-1", "sync_standby": "coordinator-2"}',
    "/service/shop/1/members/worker1-1": "not json",
    "/service/shop/1/sync": "",
}


def test_groups_of_a_citus_cluster() -> None:
    first, second, third = _patroni_etcd.parse_keys(KEYS, "/service/shop/", "shop")
    assert first.variables() == {
        "patroni_name": "coordinator-1",
        "patroni_scope": "shop",
        "patroni_role": "leader",
        "patroni_state": "running",
        "patroni_api_url": "https://coordinator-1.example.org:8008/patroni",
        "patroni_host": "coordinator-1.example.org",
        "patroni_port": 5433,
        "patroni_timeline": 3,
        "patroni_citus_group": 0,
    }
    assert first.groups() == [
        "patroni",
        "patroni_leader",
        "citus_coordinator",
        "citus_coordinator_leader",
        "citus_group_0",
        "citus_group_0_leader",
    ]
    assert (second.member.role, second.member.state) == ("sync_standby", "streaming")
    assert "patroni_sync_standby" in second.groups()
    assert "citus_coordinator_replica" in second.groups()
    assert third.groups() == [
        "patroni",
        "patroni_replica",
        "citus_worker",
        "citus_worker_replica",
        "citus_group_1",
        "citus_group_1_replica",
    ]


def test_a_cluster_without_citus() -> None:
    keys = {"/db/x/leader": "a", "/db/x/members/a": data("a", role="standby_leader"), "/db/x/failover": "{}"}
    (only,) = _patroni_etcd.parse_keys(keys, "/db/x/", "x")
    assert (only.citus_group, only.member.role) == (None, "standby_leader")
    assert only.groups() == ["patroni", "patroni_leader"]
    assert "patroni_citus_group" not in only.variables()


class Etcd(http.server.BaseHTTPRequestHandler):
    """etcd's JSON gateway, for one range request; with a password where the server has one."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        login = getattr(self.server, "login", None)
        if self.path == "/v3/auth/authenticate":
            right = body == login
            return self.answer(200 if right else 400, {"token": "abc.1"} if right else {"message": "wrong"})
        if login and self.headers["Authorization"] != "abc.1":
            return self.answer(400, {"code": 3, "message": "etcdserver: user name is empty"})
        start, end = (base64.b64decode(body[key]).decode() for key in ("key", "range_end"))
        found = [
            {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
            for key, value in KEYS.items()
            if start <= key < end
        ]
        return self.answer(200, {"kvs": found} if found else {})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module", params=[None])
def etcd(request: pytest.FixtureRequest) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Etcd)
    server.login = request.param  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ansible_inventory(folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """What ``ansible-inventory --list`` makes of a file with these options, and what it complained about."""
    path = folder / "patroni.yml"
    path.write_text(json.dumps({"plugin": "citus_ha.cluster.patroni", **options}))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_INVENTORY_ENABLED": "citus_ha.cluster.patroni",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", path, "--list"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout or "{}"), " ".join(done.stderr.split())


def test_with_ansible(tmp_path: Path, etcd: str) -> None:
    seen, _errors = ansible_inventory(
        tmp_path,
        # the first one does not answer
        etcd_urls=["http://127.0.0.1:1", etcd],
        scope="shop",
        compose={"ansible_host": "patroni_host"},
        keyed_groups=[{"key": "patroni_state", "prefix": "state"}],
    )
    assert seen["citus_coordinator_leader"]["hosts"] == ["coordinator-1"]
    assert seen["patroni_sync_standby"]["hosts"] == ["coordinator-2"]
    assert seen["citus_group_1"]["hosts"] == ["worker1-1"]
    assert seen["state_streaming"]["hosts"] == ["coordinator-2"]
    # Not to be templated: it came from outside.
    assert seen["_meta"]["hostvars"]["coordinator-2"]["ansible_host"] == {
        "__ansible_unsafe": "coordinator-2.example.org"
    }


@pytest.mark.parametrize("etcd", [{"name": "ansible", "password": "secret"}], indirect=True)
def test_etcd_with_a_password(tmp_path: Path, etcd: str) -> None:
    (tmp_path / "password").write_text("secret\n")
    options = {"etcd_urls": [etcd], "scope": "shop", "etcd_user": "ansible"}
    template = f"{{{{ lookup('ansible.builtin.file', '{tmp_path}/password') }}}}"
    seen, _errors = ansible_inventory(tmp_path, **options, etcd_password=template)
    assert seen["citus_coordinator_leader"]["hosts"] == ["coordinator-1"]
    for wrong, words in (({"etcd_password": "other"}, "wrong"), ({"etcd_user": ""}, "user name is empty")):
        seen, errors = ansible_inventory(tmp_path, **{**options, **wrong})
        assert seen == {} and words in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Exactly one of etcd_urls and groups_urls"),
        ({"etcd_urls": ["http://127.0.0.1:1"]}, "etcd_urls needs scope"),
        ({"etcd_urls": ["http://127.0.0.1:1"], "scope": "shop"}, "127.0.0.1:1/v3/kv/range got no answer"),
        ({"groups_urls": {"0": ["http://127.0.0.1:1"]}}, "127.0.0.1:1/cluster got no answer"),
        ({"etcd_urls": ["https://h"], "scope": "shop", "ca_cert": "none.crt"}, "none.crt cannot be read"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    seen, errors = ansible_inventory(tmp_path, **options)
    assert seen == {}
    assert words in errors


@hundred
@given(url=HOSTILE, namespace=HOSTILE, scope=HOSTILE)
def test_any_option_is_an_address_or_refused(url: str, namespace: str, scope: str) -> None:
    with pytest.raises(CitusHaError) as caught:
        _patroni_etcd.Etcd(url, timeout=1).members(namespace, scope)
    assert str(caught.value).strip()
    with pytest.raises(CitusHaError):
        # Nobody listens there: what is no text is refused before.
        _patroni_etcd.Etcd("http://127.0.0.1:1", timeout=1).members(namespace, scope)


@hundred
@given(st.dictionaries(st.sampled_from(["leader", "sync", "members/a", "1/members/b"]) | HOSTILE, HOSTILE))
def test_any_etcd_is_read(keys: dict[str, str]) -> None:
    below = {f"/service/shop/{key}": value for key, value in keys.items()}
    for found in _patroni_etcd.parse_keys(below, "/service/shop/", "shop"):
        assert found.groups()[0] == "patroni"


def test_a_conn_url_that_is_none() -> None:
    keys = {"/service/shop/members/a": '{"conn_url": "postgres://[:x"}'}
    (found,) = _patroni_etcd.parse_keys(keys, "/service/shop/", "shop")
    assert (found.member.host, found.member.port) == (None, None)


def test_a_member_that_cannot_answer_now_is_passed_over() -> None:
    class Member:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def cluster(self) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    broken = [Member(ServerError("etcd has no leader.")), Member(ConnectionFailed("nobody listens."))]
    assert _patroni_etcd.first_answer([*broken, Member("well")], "cluster") == "well"
    with pytest.raises(ConnectionFailed, match=r"etcd has no leader\. nobody listens\."):
        _patroni_etcd.first_answer(broken, "cluster")
