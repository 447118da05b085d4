# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Makes ``ansible_collections.citus_ha.cluster`` importable from the checkout; has the cluster that suites share."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster import Again, Cluster

REPOSITORY = Path(__file__).resolve().parent.parent
COLLECTIONS = REPOSITORY / ".collections"

if str(COLLECTIONS) not in sys.path:
    sys.path.insert(0, str(COLLECTIONS))


LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember what ``-m "not slow"`` leaves out."""
    for item in items:
        counts = item.config.stash.setdefault(LEFT_OUT, Counter())
        counts[str(item.path.relative_to(REPOSITORY))] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say it."""
    for path, count in sorted(config.stash.get(LEFT_OUT, Counter()).items()):
        terminalreporter.write_line(f"left out: {count} in {path}")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of the default Docker inventory; tests/security and tests/e2e/test_cluster.py share it.

    How it was made is kept in ``demo.made``: everything that Ansible says, in which no secret may be.
    """
    # Not above: the suites that run modules in pytest's process want nothing of this.
    from cluster import cluster

    # One role's password is given, as from Ansible Vault; the other's is generated.
    roles = [{"name": "app"}, {"name": "reporter", "password": secrets.token_urlsafe(24)}]
    with cluster(tmp_path_factory.mktemp("inventory") / "e2e", cluster_roles=roles) as made:
        made.made = made.play("site", "-vvv", "--diff", timeout=1800).succeeded()
        yield made


@pytest.fixture(scope="session")
def again(demo: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Again:
    """The second run of ``site.yml`` on it, from the collection that is installed elsewhere, by its name."""
    import artifact
    from cluster import Again
    from system_log import system_log

    from playbooks import Run

    installed = artifact.install(tmp_path_factory.mktemp("installed"))
    arguments = ("-i", str(demo.inventory), "--forks", "20")
    with system_log() as heard:
        ran = artifact.run("ansible-playbook", "citus_ha.cluster.site", *arguments, folder=installed)
    return Again(installed, Run(ran.returncode, ran.stdout + ran.stderr), heard)
