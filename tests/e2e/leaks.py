# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What a cluster's secrets look like, and where to look for them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.citus_ha.cluster.plugins.filter.postgres import scram_secret
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def secrets_of(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Every secret in the folder of a cluster by what it is, in each form that a leak could have.

    ``given`` are the passwords of roles that the inventory has itself.
    """
    found = {name: (folder / name).read_text().strip() for name in ("etcd_password", "etcd_user_key")}
    passwords = {file.name: file.read_text().strip() for file in (folder / "passwords").iterdir()}
    for role, value in {**passwords, **given}.items():
        found[f"password of {role}"] = value
        # What PostgreSQL stores, without its salt
        found |= {f"verifier of {role}, {n}": part for n, part in enumerate(verifier(value, role))}
    for file in (folder / "pki").glob("*.key"):
        found |= {f"{file.name}, {n}": part for n, part in enumerate(key_forms(file.read_bytes()))}
    assert len(found) > 15
    return found


def verifier(password: str, role: str) -> list[str]:
    """The two keys in a SCRAM secret."""
    return scram_secret(password, role).rsplit("$", 1)[1].split(":")


def key_forms(content: bytes) -> list[str]:
    """The private number of a key as it looks in Base64, wherever in a block it begins."""
    key = serialization.load_pem_private_key(content, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    # Whole groups of three bytes only: what is before and after the number is unknown.
    return [base64.b64encode(number[skip : skip + 30]).decode() for skip in range(3)]


def leaks(text: str, secrets: Mapping[str, str]) -> list[str]:
    """Which secrets a text has."""
    # A key whose lines were broken, quoted or escaped is still one.
    joined = re.sub(r"\\n|\\r|[\s\"']", "", text)
    return [name for name, value in secrets.items() if value in text or value in joined]
