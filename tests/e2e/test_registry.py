# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The registry alone: etcd members that join and leave by the inventory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, cluster

TLS = (
    "--cacert=/etc/citus_ha/tls/ca.crt",
    "--cert=/etc/citus_ha/registry/client.crt",
    "--key=/etc/citus_ha/registry/client.key",
)

# `make test` has a registry as part of the whole cluster.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three etcd members and nothing else."""
    with cluster(tmp_path_factory.mktemp("inventory") / "registry", cluster_name="citus_ha_test_registry") as made:
        made.groups = {"etcd": made.groups["etcd"]}
        made.save()
        made.play("site", timeout=1800).succeeded()
        yield made


def etcdctl(registry: Cluster, *arguments: str) -> str:
    """What etcdctl prints in the first member, with its certificate."""
    endpoint = f"--endpoints=https://{PREFIX}etcd-1:2379"
    return registry.inside("etcd-1", "etcdctl", *TLS, endpoint, *arguments)


def members(registry: Cluster) -> list[str]:
    """Names of the started members, as etcd lists them, without the tests' prefix."""
    listed = json.loads(etcdctl(registry, "member", "list", "--write-out=json"))["members"]
    return sorted(member["name"].removeprefix(PREFIX) for member in listed if "name" in member)


def test_members_join_a_running_registry(registry: Cluster) -> None:
    etcdctl(registry, "put", "/kept", "through both changes")
    assert members(registry) == ["etcd-1", "etcd-2", "etcd-3"]
    registry.groups["etcd"]["hosts"] |= {f"{PREFIX}etcd-4": {}, f"{PREFIX}etcd-5": {}}
    registry.save()
    registry.play("site").succeeded()
    assert members(registry) == [f"etcd-{number}" for number in range(1, 6)]
    assert registry.play("site").succeeded().changed == {}


def test_members_leave_only_when_asked_by_name(registry: Cluster) -> None:
    for number in (4, 5):
        del registry.groups["etcd"]["hosts"][f"{PREFIX}etcd-{number}"]
    registry.save()
    refused = registry.play("site")
    assert refused.code != 0
    assert "set etcd_remove_members: true" in " ".join(refused.output.split())
    assert len(members(registry)) == 5
    registry.play("site", "-e", "etcd_remove_members=true").succeeded()
    assert members(registry) == ["etcd-1", "etcd-2", "etcd-3"]
    assert etcdctl(registry, "get", "--print-value-only", "/kept").strip() == "through both changes"


def test_a_member_whose_disk_is_lost_is_replaced_by_another(registry: Cluster) -> None:
    lost = registry.docker.containers.get(f"{PREFIX}etcd-3")
    volumes = [mount["Name"] for mount in lost.attrs["Mounts"] if mount["Type"] == "volume"]
    lost.remove(force=True)
    for name in volumes:
        registry.docker.volumes.get(name).remove()
    hosts = registry.groups["etcd"]["hosts"]
    # Listed first: the one that is asked may be the one that cannot answer yet.
    registry.groups["etcd"]["hosts"] = {f"{PREFIX}etcd-6": {}} | {
        name: variables for name, variables in hosts.items() if not name.endswith("etcd-3")
    }
    registry.save()
    registry.play("site", "-e", "etcd_remove_members=true").succeeded()
    assert members(registry) == ["etcd-1", "etcd-2", "etcd-6"]
    assert etcdctl(registry, "get", "--print-value-only", "/kept").strip() == "through both changes"
    assert registry.play("site").succeeded().changed == {}
