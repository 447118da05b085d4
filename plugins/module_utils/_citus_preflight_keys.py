# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that have to include the distribution column, and the statements that make them do so.

Every function is pure. What they say is compared with Citus's own verdict in tests/integration.
"""

from __future__ import annotations

from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_details import Column, Details, Key
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_catalog_tables import Table
from ansible_collections.citus_ha.cluster.plugins.module_utils._citus_distribute import Desired, Finding, Statement
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display


def _matching_parenthesis(text: str) -> int | None:
    """Index of the parenthesis that closes the first one outside quotes; None when there is none."""
    depth = 0
    quote = ""
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return index
    return None


def extended_definition(key: Key, column: str) -> str | None:
    """The key's definition, in the server's words, with ``column`` appended to its columns.

    None for an exclusion constraint: whether its index method can compare the column for equality is
    not known here.
    """
    end = _matching_parenthesis(key.definition)
    if end is None or key.constraint == "x":
        return None
    return f"{key.definition[:end]}, {display(column)}{key.definition[end:]}"


def mend_key(key: Key, column: str) -> tuple[Statement, ...]:
    """The statements that add ``column`` to the key; empty when that cannot be said."""
    definition = extended_definition(key, column)
    if definition is None:
        return ()
    names = {"table": (key.schema, key.table), "key": (key.name,), "index": (key.schema, key.name)}
    if key.constraint:
        first: tuple[Statement, ...] = (
            Statement(
                "ALTER TABLE {table} DROP CONSTRAINT {key}, ADD CONSTRAINT {key} {definition}",
                {"table": names["table"], "key": names["key"]},
                {"definition": definition},
            ),
        )
    else:
        first = (
            Statement("DROP INDEX {index}", {"index": names["index"]}),
            Statement("{definition}", {}, {"definition": definition}),
        )
    if key.replica_identity:
        identity = Statement(
            "ALTER TABLE {table} REPLICA IDENTITY USING INDEX {key}", {"table": names["table"], "key": names["key"]}
        )
        return (*first, identity)
    return first


_KEY_WORDS = {"p": "primary key", "u": "unique constraint", "x": "exclusion constraint", None: "unique index"}


def key_problems(
    desired: Desired, table: Table, column: Column, details: Details
) -> tuple[list[Finding], list[Statement], list[str]]:
    """Keys without the distribution column: findings, or with ``extend_keys`` what mends them; and warnings."""
    findings: list[Finding] = []
    statements: list[Statement] = []
    warnings: list[str] = []
    for key in details.keys.get(table.oid, ()):
        on_partition = (key.schema, key.table) != (table.schema, table.table)
        own = {item.name: item.number for item in details.columns.get(table.oid, ())}
        covered = column.name in key.names if on_partition else own.get(column.name) in key.columns
        if covered:
            continue
        if column.name in key.included:
            # Citus takes this one, although it then checks the key only within a shard.
            warnings.append(
                f"{table}: the {_KEY_WORDS[key.constraint]} {display(key.name)} only carries {display(column.name)}"
                " along (INCLUDE): it stays unique within a shard, not over all of them."
            )
            continue
        where = f" on its partition {Name(key.schema, key.table)}" if on_partition else ""
        problem = (
            f"the {_KEY_WORDS[key.constraint]} {display(key.name)} ({', '.join(map(display, key.names))}){where}"
            f" does not include the distribution column {display(column.name)}"
        )
        mend = mend_key(key, column.name)
        if not mend:
            findings.append(
                Finding(
                    str(table),
                    f"{problem} with an equality operator.",
                    "Drop it or add the column to it:",
                    (str(_drop_constraint(key)),),
                )
            )
        elif key.dependants:
            findings.append(
                Finding(
                    str(table),
                    f"{problem}, and foreign keys rest on it ({', '.join(key.dependants)}).",
                    "Change those foreign keys to include the column too (drop them, mend the key, add them again), or"
                    " distribute the table by a column of the key, or make it a reference table. The key would be:",
                    tuple(str(statement) for statement in mend),
                )
            )
        elif desired.extend_keys:
            statements.extend(mend)
        else:
            findings.append(
                Finding(
                    str(table),
                    f"{problem}. Citus can keep it unique only when it does.",
                    "Set extend_keys: true, or run:",
                    tuple(str(statement) for statement in mend),
                )
            )
    return findings, statements, warnings


def _drop_constraint(key: Key) -> Statement:
    return Statement(
        "ALTER TABLE {table} DROP CONSTRAINT {key}", {"table": (key.schema, key.table), "key": (key.name,)}
    )
