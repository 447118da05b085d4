# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What site.yml refuses on a real machine before it has made anything; inventories alone: test_topology.py."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PREFIX, Cluster, cluster


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An inventory without a cluster."""
    folder = tmp_path_factory.mktemp("inventory") / "refused"
    with cluster(folder, cluster_name="citus_ha_test_refused") as made:
        yield made


def refused(nothing: Cluster, *arguments: str) -> str:
    """What a refused run printed; it has made neither container nor volume."""
    before = {volume.name for volume in nothing.docker.volumes.list()}
    run = nothing.play("site", *arguments)
    assert run.code != 0, run.tail
    assert nothing.containers() == []
    assert {volume.name for volume in nothing.docker.volumes.list()} == before
    return " ".join(run.output.split())


def test_a_published_port_that_another_program_has(nothing: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 26432)):
        output = refused(nothing)
    assert "pgbouncer_published_port is 26432" in output
    assert "free ports" in output


def test_more_memory_than_the_machine_has(nothing: Cluster) -> None:
    output = refused(nothing, "-e", "postgres_memory=512g")
    assert "postgres_memory" in output and "Lower them" in output


def test_more_cpus_than_the_machine_has(nothing: Cluster) -> None:
    output = refused(nothing, "-e", "postgres_cpus=4096")
    assert "postgres_cpus, postgres_lease_cpus" in output and "4096.0" in output and "0 for no limit" in output


def test_a_data_volume_of_another_cluster(nothing: Cluster) -> None:
    volume = nothing.docker.volumes.create(
        f"citus_ha.citus_ha_test_refused.{PREFIX}worker1-1", labels={"io.citus_ha.cluster_id": "0123456789abcdef"}
    )
    try:
        output = refused(nothing)
    finally:
        volume.remove()
    assert "belongs to another cluster" in output and "0123456789abcdef" in output


def test_a_container_of_somebody_else(nothing: Cluster) -> None:
    image = nothing.docker.images.list()[0]
    container = nothing.docker.containers.create(image.id, ["true"], name=f"{PREFIX}etcd-1")
    try:
        run = nothing.play("site", "--tags", "etcd", "--limit", f"{PREFIX}etcd-1")
    finally:
        container.remove()
    assert run.code != 0
    assert "belongs to something else" in " ".join(run.output.split())


def test_a_package_that_is_not_there(nothing: Cluster) -> None:
    output = refused(nothing, "-e", "citus_package_source=files", "-e", "citus_package_path=/nowhere")
    assert "/nowhere on the controller has no postgresql-17-citus-14.0_*.deb" in output
    assert "citus_package_source: repository" in output


def test_a_package_that_nobody_checked(nothing: Cluster, tmp_path: Path) -> None:
    for version in ("14.0.1", "14.0.2"):
        (tmp_path / f"postgresql-17-citus-14.0_{version}.citus-1_amd64.deb").write_text(version)
    variables = {
        "citus_package_source": "files",
        "citus_package_path": str(tmp_path),
        "citus_package_checksums": [hashlib.sha256(b"14.0.1").hexdigest()],
    }
    output = refused(nothing, "-e", json.dumps(variables))
    assert f"checksums has them: postgresql-17-citus-14.0_14.0.2.citus-1_amd64.deb in {tmp_path}" in output


def test_a_typo_in_the_inventory(nothing: Cluster) -> None:
    nothing.groups["coordinator"]["hosts"][f"{PREFIX}coordinator-1"] = {"postgres_max_conections": 100}
    nothing.save()
    output = refused(nothing)
    nothing.groups["coordinator"]["hosts"][f"{PREFIX}coordinator-1"] = {}
    nothing.save()  # destroy.yml wants an inventory in order, too
    assert "postgres_max_conections" in output and "did you mean postgres_max_connections?" in output
