# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Names as SQL writes them."""

from __future__ import annotations

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import InvalidInput
from ansible_collections.citus_ha.cluster.plugins.module_utils._names import Name, display, parse_identifier, parse_name
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("events", Name(None, "events")),
        ("  events\n", Name(None, "events")),
        ("Events", Name(None, "events")),
        ("public.events", Name("public", "events")),
        ('"Events"', Name(None, "Events")),
        ('s."Order Lines"', Name("s", "Order Lines")),
        ('"a.b"."c"', Name("a.b", "c")),
        ('"quo""te"', Name(None, 'quo"te')),
        ("_x$1", Name(None, "_x$1")),
        ("straße", Name(None, "straße")),
        ("ÄRGER", Name(None, "Ärger")),  # only ASCII letters are folded
        ("a" * 63, Name(None, "a" * 63)),
        ('"' + "日" * 21 + '"', Name(None, "日" * 21)),
    ],
)
def test_read_as_postgresql_reads_them(text: str, name: Name) -> None:
    assert parse_name(text, "name") == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ('""', "empty"),
        ("a" * 64, "64 bytes"),
        ('"' + "日" * 22 + '"', "66 bytes"),
        ("a b", '"a b"'),
        ("1a", "Quote every part"),
        ("a.", "Quote every part"),
        (".a", "Quote every part"),
        ('"a', "Quote every part"),
        ('"a"b', "Quote every part"),
        ("a.b.c", "3 parts"),
        ("a; drop table b", "Quote every part"),
        ('"a\0b"', "zero byte"),
        ("a\0", "zero byte"),
        ("\ud800", "Unicode"),
        ('"\ud800"', "Unicode"),
    ],
)
def test_refused_with_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_name(text, "tables[3].name")
    assert words in str(caught.value)
    assert "tables[3].name" in str(caught.value)


def test_one_identifier() -> None:
    assert parse_identifier('"A"', "name") == "A"
    with pytest.raises(InvalidInput, match="2 parts"):
        parse_identifier("a.b", "name")


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [("a", "a"), ("A", '"A"'), ("user", '"user"'), ("order", '"order"'), ('a"b', '"a""b"'), ("1", '"1"'), ("ä", '"ä"')],
)
def test_shown_as_sql_needs_it(identifier: str, shown: str) -> None:
    assert display(identifier) == shown


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15))
def test_what_is_shown_is_read_back(identifier: str) -> None:
    assert parse_name(f"{display(identifier)}.{display(identifier)}", "name") == Name(identifier, identifier)


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = parse_name(text, "name")
    except InvalidInput:
        return
    assert 1 <= len(name.table.encode()) <= 63
