# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The collection that others install: what ansible-galaxy builds of this checkout, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of Ansible that knows the installed collections only, not this checkout."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    return subprocess.run(
        [str(BIN / argv[0]), *argv[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the collection installed in it."""
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "ansible.cfg").touch()
    built = run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(folder), folder=folder)
    assert built.returncode == 0, built.stderr
    (artifact,) = folder.glob("citus_ha-cluster-*.tar.gz")
    # The collections that it needs come with the package `ansible`: nothing is fetched.
    arguments = ("collection", "install", str(artifact), "--no-deps", "--offline", "-p", str(folder / "collections"))
    installation = run("ansible-galaxy", *arguments, folder=folder)
    assert installation.returncode == 0, installation.stderr
    return folder


def test_it_holds_what_runs_and_nothing_of_the_workshop(installed: Path) -> None:
    top = installed / "collections/ansible_collections/citus_ha/cluster"
    there = {path.name for path in top.iterdir()}
    assert {"plugins", "roles", "playbooks", "meta", "docs", "README.md", "COPYING", "LICENSE"} <= there
    assert not there & {".venv", ".cache", ".collections", ".git", ".ci"}
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
