# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The collection as others have it: built of this checkout, and installed into a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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
        timeout=600,
        check=False,
    )


def install(folder: Path) -> Path:
    """The folder with the collection installed in it."""
    (folder / "ansible.cfg").touch()
    built = run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(folder), folder=folder)
    assert built.returncode == 0, built.stderr
    (artifact,) = folder.glob("citus_ha-cluster-*.tar.gz")
    # The collections that it needs come with the package `ansible`: nothing is fetched.
    arguments = ("collection", "install", str(artifact), "--no-deps", "--offline", "-p", str(folder / "collections"))
    installation = run("ansible-galaxy", *arguments, folder=folder)
    assert installation.returncode == 0, installation.stderr
    return folder
