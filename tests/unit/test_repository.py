# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""The checkout agrees with itself: what is written twice is the same, and nothing names somebody's machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.modules.role_passwords import KEEP_SILENT

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))


def tracked_files() -> list[Path]:
    """Every text file that is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


def spec_options(role: Path) -> dict[str, dict[str, Any]]:
    """Options of all the entry points of a role, as ``meta/argument_specs.yml`` has them."""
    entry_points = (load(role / "meta/argument_specs.yml") or {}).get("argument_specs", {})
    options: dict[str, dict[str, Any]] = {}
    for entry_point in entry_points.values():
        options.update(entry_point.get("options") or {})
    return options


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_describes_its_arguments(role: Path) -> None:
    specs = (load(role / "meta/argument_specs.yml") or {}).get("argument_specs", {})
    assert "main" in specs, f"{role.name}: meta/argument_specs.yml lacks the entry point main"
    assert specs["main"].get("short_description"), f"{role.name}: its entry point main lacks a short_description"
    undescribed = [name for name, option in spec_options(role).items() if not option.get("description")]
    assert not undescribed, f"{role.name}: options without a description"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_of_a_role_is_in_its_argument_spec(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    public = {name for name in defaults if not name.startswith("_")}
    assert sorted(public - spec_options(role).keys()) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_argument_spec_name_the_same_values(role: Path) -> None:
    """A value in one and not in the other, or another one, misleads whoever reads only one of the files."""
    defaults = load(role / "defaults/main.yml") or {}
    in_specs = {name: option["default"] for name, option in spec_options(role).items() if "default" in option}
    in_defaults = {name: value for name, value in defaults.items() if not name.startswith("_")}
    # A specification cannot hold a value that is computed: its description says where it comes from.
    computed = {
        name: spec_options(role)[name]["description"]
        for name, value in in_defaults.items()
        if str(value).startswith("{{") and spec_options(role)[name]["type"] in ("int", "float", "bool")
    }
    assert in_specs == {name: value for name, value in in_defaults.items() if name not in computed}
    assert [name for name, description in computed.items() if "By default" not in str(description)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_required_options_have_no_default(role: Path) -> None:
    contradictory = [
        name for name, option in spec_options(role).items() if option.get("required") and "default" in option
    ]
    assert contradictory == []


def makefile_targets() -> dict[str, str | None]:
    """Each target of the Makefile with the help text after its ``##``."""
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)[^#\n]*(?:## (.+))?$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name: text or None for name, text in rules}


def test_makefile_targets_are_documented_and_phony() -> None:
    targets = makefile_targets()
    phony = {
        name
        for line in re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for name in line.split()
    }
    assert {"setup", "demo", "test", "test-all", "check", "destroy"} <= targets.keys()
    assert [name for name, text in targets.items() if text is None] == []
    assert phony == targets.keys()


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    missing = [
        name for name, text in makefile_targets().items() if f"  make {name} " not in shown or str(text) not in shown
    ]
    assert missing == []


def test_makefile_names_playbooks_and_scripts_that_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    named = {f"playbooks/{name}.yml" for name in re.findall(r"\(call playbook,(\w+)\)", text)}
    named |= set(re.findall(r"\b(?:scripts|tests)/[\w/]+\.(?:sh|py)\b", text))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_no_file_names_somebodys_machine() -> None:
    """Paths of a home or work folder, and addresses of package mirrors, hold on one machine only."""
    # Put together here so that this file does not contain them itself.
    patterns = [rf"{top}/\w" for top in ("/work", "/home", "/Users", r"/tmp/setup", r"/root(?!/\.)")]
    pattern = re.compile("|".join(rf"(?<![\w.$}}{{-]){item}" for item in patterns))
    allowed = {"COPYING", "tests/unit/test_repository.py"}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        if str(path.relative_to(ROOT)) not in allowed
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_every_script_starts_strictly_and_can_be_executed() -> None:
    for path in [*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"]:
        text = path.read_text()
        assert text.startswith("#!/usr/bin/env bash\n# "), (
            f"{path.name}: a script says in its second line what it is for"
        )
        assert re.search(r"^set -\w*u\w*o pipefail$", text, re.MULTILINE), (
            f"{path.name}: unset variables must be errors"
        )
        assert path.stat().st_mode & 0o111, f"{path.name}: not executable"


def test_galaxy_names_the_collections_that_are_used() -> None:
    """What a task calls by its full name must be declared in galaxy.yml: pip brings it here, Galaxy elsewhere."""
    declared = set(load(ROOT / "galaxy.yml")["dependencies"]) | {"ansible.builtin", "citus_ha.cluster"}
    used: dict[str, str] = {}
    for path in [
        *ROOT.glob("roles/*/tasks/**/*.yml"),
        *ROOT.glob("roles/*/handlers/*.yml"),
        *ROOT.glob("playbooks/*.yml"),
    ]:
        for collection in re.findall(r"^ *(?:- )?([a-z_]+\.[a-z_]+)\.[a-z_]+:$", path.read_text(), re.MULTILINE):
            used.setdefault(collection, str(path.relative_to(ROOT)))
    assert {collection: where for collection, where in used.items() if collection not in declared} == {}
    assert declared - set(used) == set(), "declared, and not used"


def test_few_roles_know_what_runs_a_node() -> None:
    """Docker and machines may differ in how a process is run and where its program comes from, and in nothing else."""
    allowed = {"service", "packages", "os", "citus"}
    knowing = {
        path.relative_to(ROOT / "roles").parts[0]
        for folder in ("tasks", "templates", "vars", "handlers")
        for path in ROOT.glob(f"roles/*/{folder}/**/*")
        if path.is_file() and "service_manager" in path.read_text(encoding="utf-8")
    }
    assert knowing <= allowed


def test_statements_with_secrets_are_kept_from_the_log_in_the_same_way_everywhere() -> None:
    """The role makes roles with psql, the module changes their passwords in a session."""
    told = load(ROOT / "roles/postgres/vars/main.yml")["__postgres_keep_silent"]
    assert dict(re.findall(r"'([a-z_.]+)=([^']+)'", told)) == KEEP_SILENT


def test_the_page_on_high_availability_has_the_numbers_of_the_profiles() -> None:
    profiles = load(ROOT / "roles/ha/vars/main.yml")["ha_profiles"]
    page = (ROOT / "docs/high_availability.md").read_text(encoding="utf-8")
    told = {
        name: values.split(" | ")
        for name, values in re.findall(r"^\| `([a-z_]+)`[^|]* \| (\S+ \| \S+ \| \S+) \| ", page, re.MULTILINE)
    }
    said = {True: "yes", False: "no"}
    assert told == {
        name: [said[value] if isinstance(value, bool) else str(value) for value in values]
        for name, values in {name: [profiles[p][name] for p in profiles] for name in profiles["fast"]}.items()
    }


def test_git_and_galaxy_leave_the_same_out() -> None:
    """What a command of the Makefile writes must not be published with the collection: passwords, dumps."""
    built = {entry.removeprefix("inventories/*/") for entry in load(ROOT / "galaxy.yml")["build_ignore"]}
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    # Ansible leaves compiled Python out by itself.
    ignored = {line.strip("/") for line in lines if line and not line.startswith("#")} - {"__pycache__"}
    assert ignored - built == set()


def test_the_page_of_variables_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts/variables.py")], check=True, capture_output=True, text=True, timeout=60
    )
    assert made.stdout == (ROOT / "docs/variables.md").read_text(encoding="utf-8"), (
        "run: .venv/bin/python scripts/variables.py > docs/variables.md"
    )
