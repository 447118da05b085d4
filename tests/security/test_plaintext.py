# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A cluster whose control plane was made without TLS: it works like any other, and the attempts on etcd get in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from attackers import Attacker, attacker
from cluster import PREFIX, Cluster, cluster
from test_attacks import PATRONI, etcdctl, unsafe

PLAINTEXT: dict[str, Any] = {
    "cluster_control_plane_tls": False,
    "cluster_etcd_authentication": False,
    "postgres_patroni_verify_client": "none",
    "haproxy_check_verify": "none",
}
HTTP = PATRONI.replace("https://", "http://")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def plaintext(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of this module."""
    folder = tmp_path_factory.mktemp("inventory") / "plaintext"
    with cluster(folder, cluster_name="citus_ha_test_plaintext", **PLAINTEXT) as made:
        del made.groups["standalone"]
        made.save()
        made.play("site", timeout=1800).succeeded()
        yield made


@pytest.fixture(scope="module")
def inside(plaintext: Cluster) -> Iterator[Attacker]:
    """A container on the cluster's network."""
    with attacker(plaintext, "attacker-inside", f"citus_ha.{plaintext.variables['cluster_name']}") as made:
        yield made


def test_it_is_operated_like_any_other(plaintext: Cluster) -> None:
    assert plaintext.play("site").succeeded().changed == {}
    plaintext.play("example").succeeded()
    plaintext.play("switchover", "-e", "group=worker1").succeeded()
    plaintext.play("switchover", "-e", "group=coordinator").succeeded()
    plaintext.play("restart", "-e", "group=worker2").succeeded()
    standby = "worker1-1" if plaintext.leader("worker1") == "worker1-2" else "worker1-2"
    plaintext.play("reinit", "-e", f"node={PREFIX}{standby}").succeeded()
    assert plaintext.query("SELECT count(*) FROM events") == [(6,)]
    assert "is healthy" in plaintext.play("verify").succeeded().output


def test_whoever_reaches_etcd_reads_and_writes(inside: Attacker) -> None:
    key = f"/citus_ha/citus_ha_test_plaintext/{PREFIX}attacker"
    assert inside.run(*etcdctl("put", key, "was here", scheme="http")).code == 0
    read = inside.run(*etcdctl("get", "--prefix", "/citus_ha/", scheme="http"))
    assert read.code == 0 and "/leader" in read.output and "was here" in read.output
    assert inside.run(*etcdctl("del", key, scheme="http")).code == 0


def test_patroni_asks_for_an_address_alone(plaintext: Cluster, inside: Attacker) -> None:
    change = [word.replace(PATRONI, HTTP) for word in unsafe("POST", "/reload")]
    assert inside.run(*change).output.endswith(" 403")
    server = Attacker(plaintext.docker.containers.get(f"{PREFIX}worker2-1"))
    # No certificate of the node's comes with it.
    change = [word for word in change if word != "--cacert" and not word.endswith("/ca.crt")]
    assert server.run(*change).output.endswith(" 202")


def test_it_cannot_be_switched_on_afterwards(plaintext: Cluster) -> None:
    protected = {"cluster_control_plane_tls": True}
    refused = plaintext.play("site", "-e", json.dumps(protected))
    assert refused.code != 0 and refused.changed == {}
    said = " ".join(refused.output.split())
    assert "cluster_control_plane_tls is true" in said and "made with the opposite" in said
    assert "is healthy" in plaintext.play("verify").succeeded().output
