# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Print docs/variables.md, made from the roles' argument specs: ``scripts/variables.py > docs/variables.md``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
HEAD = """# Variables

Generated from the roles' argument specs by `scripts/variables.py`; `ansible-doc -t role` prints the same. The variables
of the role `service` without a default are set by the other roles.
"""
TABLE = "| variable | type | default | |\n|---|---|---|---|\n"


def plain(text: str) -> str:
    """Ansible's markup (``O(x=y)``, ``C(x)``, ``V(x)``) as Markdown."""
    return re.sub(r"\b[OCVM]\(([^)]*)\)", r"`\1`", text).replace("|", "\\|").strip()


def row(name: str, option: dict[str, Any]) -> str:
    """One line of a role's table."""
    default = (
        ""
        if "default" not in option
        else f"`{yaml.safe_dump(option['default'], default_flow_style=True).splitlines()[0]}`"
    )
    choices = (
        f" One of {', '.join(f'`{choice}`' for choice in option['choices'] if choice)}." if "choices" in option else ""
    )
    return f"| `{name}` | {option['type']} | {default.replace('|', '/')} | {plain(option['description'])}{choices} |"


def document() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]
        if spec.get("options"):
            parts.append(f"\n## {path.parents[1].name}\n\n{spec['short_description']}.\n\n{TABLE}")
            parts.append("\n".join(row(name, option) for name, option in spec["options"].items()) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    print(document(), end="")
