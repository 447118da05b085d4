# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names as SQL writes them: ``schema.table``, quoted or not, read by PostgreSQL's own rules.

See https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput

#: PostgreSQL cuts longer names silently (NAMEDATALEN - 1); here they are refused.
MAX_BYTES = 63

_PLAIN = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_NEEDS_NO_QUOTES = re.compile(r"[a-z_][a-z0-9_$]*")
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


# Words that PostgreSQL 17 does not take as a bare name everywhere (pg_get_keywords(), category not U).
_KEYWORD_TEXT = """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case
    cast char character check coalesce collate collation column concurrently constraint create cross
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign
    freeze from full grant greatest group grouping having ilike in initially inner inout int integer intersect
    interval into is isnull join json json_array json_arrayagg json_exists json_object json_objectagg json_query
    json_scalar json_serialize json_table json_value lateral leading least left like limit localtime
    localtimestamp merge_action national natural nchar none normalize not notnull null nullif numeric offset on
    only or order out outer overlaps overlay placing position precision primary real references returning right
    row select session_user setof similar smallint some substring symmetric system_user table tablesample then
    time timestamp to trailing treat trim true union unique user using values varchar variadic verbose when where
    window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot
    xmlserialize xmltable
"""
_KEYWORDS = frozenset(_KEYWORD_TEXT.split())


@dataclass(frozen=True)
class Name:
    """A table's name; ``schema`` is None when it was not written and the search path decides."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return display(self.table) if self.schema is None else f"{display(self.schema)}.{display(self.table)}"


def display(identifier: str) -> str:
    """The identifier as a person would write it in SQL: quoted only where it must be.

    For messages. SQL that is sent is built by ``psycopg2.sql.Identifier`` or by the server.
    """
    if _NEEDS_NO_QUOTES.fullmatch(identifier) and identifier not in _KEYWORDS:
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


def check_identifier(identifier: str, option: str) -> str:
    """Return the identifier as it is in the catalogs, if it can be one.

    :raises InvalidInput: empty, longer than 63 bytes, or not text that a server can hold.
    """
    try:
        size = len(identifier.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{option}: {identifier!r} is not valid Unicode text.", "Write the name in UTF-8."
        ) from error
    if not identifier:
        raise InvalidInput(f"{option}: a name is empty.", "Write the name of an existing object.")
    if "\0" in identifier:
        raise InvalidInput(f"{option}: {identifier!r} holds a zero byte, which no name can.", "Remove it.")
    if size > MAX_BYTES:
        raise InvalidInput(
            f"{option}: {identifier!r} has {size} bytes; PostgreSQL keeps {MAX_BYTES}.",
            "Write the name as the catalogs have it, cut to 63 bytes.",
        )
    return identifier


def _identifiers(text: str, option: str) -> list[str]:
    """The parts of a dotted name, unquoted and folded as PostgreSQL does."""
    parts: list[str] = []
    position = 0
    text = text.strip(" \t\r\n")
    while True:
        quoted = _QUOTED.match(text, position)
        plain = None if quoted else _PLAIN.match(text, position)
        if quoted:
            parts.append(check_identifier(quoted.group(1).replace('""', '"'), option))
            position = quoted.end()
        elif plain:
            parts.append(check_identifier(plain.group(0).translate(_FOLD), option))
            position = plain.end()
        else:
            break
        if position == len(text):
            return parts
        if text[position] != ".":
            break
        position += 1
    if text.strip('"') == "" or "\0" in text:
        check_identifier(text.strip('"'), option)
    raise InvalidInput(
        f"{option}: {text!r} is not a name as SQL writes it.",
        "Quote every part that has other characters than letters, digits and _, as in: "
        f"""'{_quoted_guess(text)}' (upper case is kept only inside double quotes).""",
    )


def _quoted_guess(text: str) -> str:
    return ".".join('"' + part.strip('"').replace('"', '""') + '"' for part in text.replace("\0", "").split(".", 1))


def parse_name(text: str, option: str) -> Name:
    """Read ``table`` or ``schema.table``.

    ``option`` names the module's option in messages.

    :raises InvalidInput: with the way to quote the name.
    """
    parts = _identifiers(text, option)
    if len(parts) > 2:
        raise InvalidInput(
            f"{option}: {text!r} has {len(parts)} parts.",
            "Write table or schema.table; the database is chosen with login_db. A dot inside a name must be quoted.",
        )
    return Name(None, parts[0]) if len(parts) == 1 else Name(parts[0], parts[1])


def parse_identifier(text: str, option: str) -> str:
    """Read one identifier, such as a schema's name.

    :raises InvalidInput: as for :func:`parse_name`.
    """
    parts = _identifiers(text, option)
    if len(parts) != 1:
        raise InvalidInput(f"{option}: {text!r} has {len(parts)} parts, one is wanted.", "Quote a dot inside a name.")
    return parts[0]
