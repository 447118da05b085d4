# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""etcd alone: etcd members that join and leave by the inventory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, cluster

TLS = (
    "--cacert=/etc/citus_ha/tls/ca.crt",
    "--cert=/etc/citus_ha/etcd_client/client.crt",
    "--key=/etc/citus_ha/etcd_client/client.key",
)

# `make test` has etcd as part of the whole cluster.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three etcd members and nothing else."""
    with cluster(tmp_path_factory.mktemp("inventory") / "etcd", cluster_name="citus_ha_test_etcd") as made:
        made.groups = {"etcd": made.groups["etcd"]}
        made.save()
        made.play("site", timeout=1800).succeeded()
        yield made


def etcdctl(etcd: Cluster, *arguments: str) -> str:
    """What etcdctl prints in the first member, with its certificate."""
    endpoint = f"--endpoints=https://{PREFIX}etcd-1:2379"
    return etcd.inside("etcd-1", "etcdctl", *TLS, endpoint, *arguments)


def members(etcd: Cluster) -> list[str]:
    """Names of the started members, as etcd lists them, without the tests' prefix."""
    listed = json.loads(etcdctl(etcd, "member", "list", "--write-out=json"))["members"]
    return sorted(member["name"].removeprefix(PREFIX) for member in listed if "name" in member)


def test_members_join_a_running_etcd_cluster(etcd: Cluster) -> None:
    etcdctl(etcd, "put", "/kept", "through both changes")
    assert members(etcd) == ["etcd-1", "etcd-2", "etcd-3"]
    etcd.groups["etcd"]["hosts"] |= {f"{PREFIX}etcd-4": {}, f"{PREFIX}etcd-5": {}}
    etcd.save()
    etcd.play("site").succeeded()
    assert members(etcd) == [f"etcd-{number}" for number in range(1, 6)]
    assert etcd.play("site").succeeded().changed == {}


def test_members_leave_only_when_asked_by_name(etcd: Cluster) -> None:
    for number in (4, 5):
        del etcd.groups["etcd"]["hosts"][f"{PREFIX}etcd-{number}"]
    etcd.save()
    refused = etcd.play("site")
    assert refused.code != 0
    assert "set etcd_remove_members: true" in " ".join(refused.output.split())
    assert len(members(etcd)) == 5
    etcd.play("site", "-e", "etcd_remove_members=true").succeeded()
    assert members(etcd) == ["etcd-1", "etcd-2", "etcd-3"]
    assert etcdctl(etcd, "get", "--print-value-only", "/kept").strip() == "through both changes"


def test_a_member_whose_disk_is_lost_is_replaced_by_another(etcd: Cluster) -> None:
    lost = etcd.docker.containers.get(f"{PREFIX}etcd-3")
    volumes = [mount["Name"] for mount in lost.attrs["Mounts"] if mount["Type"] == "volume"]
    lost.remove(force=True)
    for name in volumes:
        etcd.docker.volumes.get(name).remove()
    hosts = etcd.groups["etcd"]["hosts"]
    # Listed first: the one that is asked may be the one that cannot answer yet.
    etcd.groups["etcd"]["hosts"] = {f"{PREFIX}etcd-6": {}} | {
        name: variables for name, variables in hosts.items() if not name.endswith("etcd-3")
    }
    etcd.save()
    etcd.play("site", "-e", "etcd_remove_members=true").succeeded()
    assert members(etcd) == ["etcd-1", "etcd-2", "etcd-6"]
    assert etcdctl(etcd, "get", "--print-value-only", "/kept").strip() == "through both changes"
    assert etcd.play("site").succeeded().changed == {}
