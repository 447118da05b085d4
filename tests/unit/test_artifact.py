# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The collection that others install: what ansible-galaxy builds of this checkout, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from artifact import ROOT, install, run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the collection installed in it."""
    return install(tmp_path_factory.mktemp("artifact"))


def test_it_holds_what_runs_and_nothing_of_the_workshop(installed: Path) -> None:
    top = installed / "collections/ansible_collections/citus_ha/cluster"
    there = {path.name for path in top.iterdir()}
    assert {"plugins", "roles", "playbooks", "meta", "docs", "README.md", "COPYING", "LICENSE"} <= there
    assert not there & {".venv", ".cache", ".collections", ".git", ".ci", ".hypothesis"}
    assert not list(top.glob("**/.secrets")) and not list(top.glob("**/*.key"))


def test_its_playbooks_run_by_name(installed: Path) -> None:
    playbooks = sorted(f"citus_ha.cluster.{path.stem}" for path in ROOT.glob("playbooks/*.yml"))
    checked = run(
        "ansible-playbook",
        *(*playbooks, "--inventory", str(ROOT / "inventories/vm"), "--syntax-check"),
        *("--extra-vars", "node=worker1-1", "--extra-vars", "group=worker1"),
        folder=installed,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("playbook: ") == len(playbooks)


def test_a_contradictory_inventory_is_refused_by_name(installed: Path) -> None:
    inventory = installed / "hosts.yml"
    hosts: dict[str, object] = {"etcd": {"hosts": {"a": None, "b": None}}, "workers": {"hosts": {"c": None}}}
    inventory.write_text(yaml.safe_dump(hosts))
    refused = run("ansible-playbook", "citus_ha.cluster.site", "--inventory", str(inventory), folder=installed)
    assert refused.returncode != 0
    output = " ".join(refused.stdout.split())
    assert "The inventory cannot become a cluster. Nothing was changed." in output
    assert "2 members tolerate no more failures than 1" in output and "needs a coordinator" in output


@pytest.mark.parametrize("inventory", sorted((ROOT / "inventories").iterdir()), ids=lambda folder: folder.name)
def test_a_node_that_an_inventory_does_not_have_is_refused(installed: Path, inventory: Path) -> None:
    """By a task on the controller, which has the variables of all hosts, and not those of any."""
    asked = ("citus_ha.cluster.logs", "--inventory", str(inventory), "--extra-vars", "node=nobody")
    refused = run("ansible-playbook", *asked, folder=installed)
    assert refused.returncode != 0
    assert "node is nobody, which is no single node of this inventory" in " ".join(refused.stdout.split())
