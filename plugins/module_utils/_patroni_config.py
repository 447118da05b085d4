# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni's dynamic configuration: which values are the same, and what a patch makes of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TRUE = frozenset({"on", "true", "yes"})
_FALSE = frozenset({"off", "false", "no"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_QUANTITY = re.compile(rf"(?P<number>{_NUMBER.pattern})\s*(?P<unit>B|kB|MB|GB|TB|us|ms|s|min|h|d)")
_BYTES = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}


def same_value(left: Any, right: Any) -> bool:
    """Whether two values of the dynamic configuration mean the same.

    A PostgreSQL parameter may be given as C(true) or C("on"), C(100) or C("100"), C("1GB") or
    C("1024MB"): YAML, JSON and postgresql.conf spell them differently.
    """
    return bool(_normal(left) == _normal(right))


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in value]
    if value is None:
        return None
    text = str(value).strip()
    if text.lower() in _TRUE:
        return ("bool", True)
    if text.lower() in _FALSE:
        return ("bool", False)
    if _NUMBER.fullmatch(text):
        return ("number", float(text))
    quantity = _QUANTITY.fullmatch(text)
    if quantity:
        number, unit = float(quantity["number"]), quantity["unit"]
        if unit in _BYTES:
            return ("bytes", number * _BYTES[unit])
        return ("time", number * _MICROSECONDS[unit])
    return text


def config_patch(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest body for ``PATCH /config`` that turns ``current`` into ``wanted``; empty if nothing differs.

    Only keys of ``wanted`` are managed. None removes a key, as Patroni defines it.
    """
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        if value is None:
            if key in current:
                patch[key] = None
        elif isinstance(value, dict):
            have = current.get(key)
            if isinstance(have, dict):
                inner = config_patch(have, value)
                if inner:
                    patch[key] = inner
            else:
                # Patroni stores a new branch word for word, nulls included.
                patch[key] = without_nulls(value)
        elif key not in current or not same_value(current[key], value):
            patch[key] = value
    return patch


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which no key, at any depth, is None."""
    return {
        key: without_nulls(item) if isinstance(item, dict) else item for key, item in value.items() if item is not None
    }


def apply_patch(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """What Patroni makes of ``PATCH /config``: the prediction for check mode and the diff."""
    result = dict(current)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = apply_patch(result[key], value)
        else:
            result[key] = value
    return result


def managed_part(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``config`` that ``wanted`` speaks about."""
    result: dict[str, Any] = {}
    for key, value in wanted.items():
        if key not in config:
            continue
        if isinstance(value, dict) and isinstance(config[key], dict):
            result[key] = managed_part(config[key], value)
        else:
            result[key] = config[key]
    return result


def changed_parameters(patch: Mapping[str, Any]) -> frozenset[str]:
    """Names of the PostgreSQL parameters that a patch touches, in lower case."""
    postgresql = patch.get("postgresql")
    parameters = postgresql.get("parameters") if isinstance(postgresql, dict) else None
    return frozenset(name.lower() for name in parameters) if isinstance(parameters, dict) else frozenset()
