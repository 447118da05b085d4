# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""No secret is anywhere but in its own files: not in arguments, environments, Docker, Ansible's output or logs."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import PREFIX, Again, Cluster
from leaks import leaks, secrets_of

Got = Callable[[str, str], None]


@pytest.fixture(scope="module")
def secrets(demo: Cluster) -> dict[str, str]:
    """Every secret of the cluster by what it is, in each form that a leak could have."""
    given = {role["name"]: role["password"] for role in demo.variables["cluster_roles"] if "password" in role}
    found = secrets_of(demo.inventory / ".secrets", given)
    assert found.keys() >= {"password of app", "password of reporter"}
    return found


def test_the_scan_finds_a_secret(secrets: dict[str, str]) -> None:
    for name, value in secrets.items():
        assert leaks(f'x "{value}" y', secrets) == [name]
        assert leaks(json.dumps({"content": f"a\n{value[:20]}\n{value[20:]}\n"}), secrets) == [name]


def test_what_ansible_printed(demo: Cluster, secrets: dict[str, str], got: Got) -> None:
    assert demo.made is not None
    output = demo.made.output
    # What makes the scan worth something: the run made everything, and told all about it.
    assert "EXEC" in output and "invocation" in output and "Make the roles" in output
    found = leaks(output, secrets)
    got(f"{len(secrets)} secrets in {len(output)} characters of -vvv --diff", ", ".join(found) or "none")
    assert found == []


def test_the_systems_log(again: Again, secrets: dict[str, str], demo: Cluster, got: Got) -> None:
    """Ansible's modules write there what they were given, on the controller and on every machine."""
    if again.heard.unreadable:
        pytest.skip(again.heard.unreadable)
    again.run.succeeded()
    text = "\n".join(again.heard.lines)
    # What makes the scan worth something: each node's files were written, its key among them.
    assert text.count("node_files: Invoked with") >= len(demo.containers()) and "/etc/citus_ha/tls/node.key" in text
    found = leaks(text, secrets)
    got(f"secrets in {len(text)} characters of the system's log", ", ".join(found) or "none")
    assert found == []


PROCESSES = r"""
import glob
for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
    try:
        print(path, open(path, "rb").read().replace(b"\0", b" ").decode(errors="replace"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ends just now
        pass
"""


def test_arguments_and_environments(demo: Cluster, secrets: dict[str, str], got: Got) -> None:
    seen = {
        node.name: demo.inside(node.name.removeprefix(PREFIX), "python3", "-c", PROCESSES) for node in demo.containers()
    }
    assert all("/proc/1/cmdline" in text and "/proc/1/environ" in text for text in seen.values())
    assert "postgres: " in seen[f"{PREFIX}worker1-1"] and "LANG=C.UTF-8" in seen[f"{PREFIX}worker1-1"]
    found = {name: leaks(text, secrets) for name, text in seen.items() if leaks(text, secrets)}
    got(f"secrets in the processes of {len(seen)} containers", str(found or "none"))
    assert found == {}


def test_docker_inspect_and_image_history(demo: Cluster, secrets: dict[str, str], got: Got) -> None:
    containers = demo.containers()
    text = json.dumps([container.attrs for container in containers])
    image = containers[0].image
    text += json.dumps(image.attrs) + json.dumps(image.history())
    text += json.dumps([volume.attrs for volume in demo.docker.volumes.list()])
    assert "citus_ha" in text
    found = leaks(text, secrets)
    got("secrets in docker inspect and the image's history", ", ".join(found) or "none")
    assert found == []


def test_the_image_has_none_of_the_clusters_files(demo: Cluster) -> None:
    image = demo.containers()[0].image.id
    listed = demo.docker.containers.run(image, ["find", "/etc", "-path", "*citus_ha*"], remove=True, entrypoint=[])
    assert listed == b""


def test_logs(demo: Cluster, secrets: dict[str, str], got: Got) -> None:
    texts = {node.name: node.logs().decode(errors="replace") for node in demo.containers()}
    assert sum(map(len, texts.values())) > 1000
    found = {name: leaks(text, secrets) for name, text in texts.items() if leaks(text, secrets)}
    got(f"secrets in the logs of {len(texts)} containers", str(found or "none"))
    assert found == {}


def test_statements_that_the_database_remembers(demo: Cluster, secrets: dict[str, str], got: Got) -> None:
    text = ""
    for group in ("coordinator", "worker1", "worker2"):
        leader = demo.leader(group)
        for database in ("postgres", "app"):
            if demo.psql(leader, "SELECT to_regclass('pg_stat_statements') IS NOT NULL", database) == "t":
                text += demo.psql(leader, "SELECT query FROM pg_stat_statements", database)
        text += demo.psql(leader, "SELECT query FROM pg_stat_activity")
    found = leaks(text, secrets)
    got("secrets in pg_stat_statements and pg_stat_activity", ", ".join(found) or "none")
    assert found == []


def test_files_with_secrets_are_their_owners_alone(demo: Cluster, secrets: dict[str, str]) -> None:
    folders = [demo.inventory / ".secrets", Path("/var/lib/citus_ha") / demo.variables["cluster_name"]]
    holding = [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and leaks(file.read_text(errors="replace"), secrets)
    ]
    # The authority's key and those of all nodes, here and there, passwords, pgpass, the poolers' list
    assert len(holding) > 20
    assert {oct(file.stat().st_mode & 0o777) for file in holding} == {"0o600"}, holding
    assert oct((demo.inventory / ".secrets").stat().st_mode & 0o77) == "0o0"


def test_git_ignores_them(demo: Cluster) -> None:
    repository = Path(__file__).resolve().parents[2]
    for inventory in (repository / "inventories").iterdir():
        checked = subprocess.run(
            ["git", "check-ignore", "--quiet", str(inventory / ".secrets/passwords/app")], cwd=repository, check=False
        )
        assert checked.returncode == 0, inventory


def test_generated_passwords_cannot_be_guessed(demo: Cluster) -> None:
    folder = demo.inventory / ".secrets"
    for file in [folder / "etcd_password", folder / "etcd_user_key", *(folder / "passwords").iterdir()]:
        value = file.read_text().strip()
        assert len(value) * math.log2(62) > 128 and re.fullmatch(r"[A-Za-z0-9]+", value)
