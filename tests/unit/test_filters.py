# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The filters that templates use."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import importlib
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.citus_ha.cluster.plugins.filter.certificates import (
    certificate_is_good,
    days_left,
    signing_authority,
    subject_alt_names,
)
from ansible_collections.citus_ha.cluster.plugins.filter.docker import volume_owner
from ansible_collections.citus_ha.cluster.plugins.filter.postgres import postgres_memory, scram_secret
from ansible_collections.citus_ha.cluster.plugins.filter.text import text_table
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

GIGABYTE = 1024**3


@pytest.mark.parametrize(
    ("memory", "connections", "expected"),
    [
        (
            GIGABYTE,
            200,
            {
                "shared_buffers": "256MB",
                "effective_cache_size": "768MB",
                "work_mem": "1310kB",
                "maintenance_work_mem": "51MB",
            },
        ),
        (
            64 * GIGABYTE,
            100,
            {
                "shared_buffers": "16384MB",
                "effective_cache_size": "49152MB",
                "work_mem": "167772kB",
                "maintenance_work_mem": "1024MB",
            },
        ),
        (
            32 * 1024**2,
            500,
            {
                "shared_buffers": "16MB",
                "effective_cache_size": "64MB",
                "work_mem": "1024kB",
                "maintenance_work_mem": "16MB",
            },
        ),
    ],
)
def test_memory_follows_the_limit(memory: int, connections: int, expected: dict[str, str]) -> None:
    assert postgres_memory(memory, connections) == expected


def test_a_scram_secret_belongs_to_its_password() -> None:
    secret = scram_secret("correct horse battery", "app")
    mechanism, parameters, keys = secret.split("$")
    iterations, salt = parameters.split(":")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    salted = hashlib.pbkdf2_hmac("sha256", b"correct horse battery", base64.b64decode(salt), int(iterations))
    assert mechanism == "SCRAM-SHA-256"
    assert stored == hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert server == hmac.digest(salted, b"Server Key", "sha256")


def test_scram_secrets_are_stable_and_differ_between_roles() -> None:
    assert scram_secret("correct horse battery", "app") == scram_secret("correct horse battery", "app")
    assert scram_secret("correct horse battery", "app") != scram_secret("correct horse battery", "other")


def test_a_password_that_saslprep_would_change_is_refused() -> None:
    with pytest.raises(ValueError, match="role app must be printable ASCII"):
        scram_secret("pässwörd-pässwörd", "app")


def authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A certificate authority for one test."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return key, certificate(subject, subject, key, key, 10, [])


def certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
    names: list[str],
) -> x509.Certificate:
    """A certificate that is valid for ``days`` more."""
    now = datetime.datetime.now(tz=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def pem(item: x509.Certificate) -> str:
    """PEM text of a certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return item.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("days", "names", "good"),
    [(60, ["node"], True), (20, ["node"], False), (60, ["node", "other"], False), (60, ["other"], False)],
    ids=["good", "expires soon", "one name too many", "another name"],
)
def test_a_certificate_is_renewed_when_it_has_to_be(days: int, names: list[str], good: bool) -> None:
    ca_key, ca = authority("ca")
    node = certificate(x509.Name([]), ca.subject, ec.generate_private_key(ec.SECP256R1()), ca_key, days, names)
    assert certificate_is_good(pem(node), pem(ca), ["DNS:node"], 30) is good


def test_a_certificate_of_another_authority_is_not_good() -> None:
    (_key, ca), (other_key, other) = authority("ca"), authority("ca")
    node = certificate(x509.Name([]), other.subject, ec.generate_private_key(ec.SECP256R1()), other_key, 60, ["node"])
    assert certificate_is_good(pem(node), pem(ca), ["DNS:node"], 30) is False


def test_one_of_two_authorities_is_enough() -> None:
    (_key, old), (new_key, new) = authority("old"), authority("new")
    node = certificate(x509.Name([]), new.subject, ec.generate_private_key(ec.SECP256R1()), new_key, 60, ["node"])
    assert certificate_is_good(pem(node), pem(old) + pem(new), ["DNS:node"], 30) is True


@pytest.mark.parametrize(
    ("given", "wanted", "good"),
    [("root", {"CN": "root"}, True), ("root", {}, False), ("", {}, True), ("", {"CN": "root"}, False)],
)
def test_a_certificate_with_another_subject_is_not_good(given: str, wanted: dict[str, str], good: bool) -> None:
    ca_key, ca = authority("ca")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, given)] if given else [])
    node = certificate(subject, ca.subject, ec.generate_private_key(ec.SECP256R1()), ca_key, 60, ["node"])
    assert certificate_is_good(pem(node), pem(ca), ["DNS:node"], 30, wanted) is good


def test_a_certificate_goes_with_its_own_key_alone() -> None:
    ca_key, ca = authority("ca")
    key = ec.generate_private_key(ec.SECP256R1())
    node = pem(certificate(x509.Name([]), ca.subject, key, ca_key, 60, ["node"]))
    keys = [each.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() for each in (key, ca_key)]
    assert [certificate_is_good(node, pem(ca), ["DNS:node"], 30, key=each) for each in keys] == [True, False]
    assert certificate_is_good(node, pem(ca), ["DNS:node"], 30, key="no key") is False


def test_what_is_no_certificate_with_names_is_not_good() -> None:
    ca_key, ca = authority("ca")
    now = datetime.datetime.now(tz=datetime.UTC)
    nameless = (
        x509.CertificateBuilder(ca.subject, x509.Name([]), ca_key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=60))
        .sign(ca_key, hashes.SHA256())
    )
    for broken in (pem(nameless), "broken", ""):
        assert certificate_is_good(broken, pem(ca), ["DNS:node"], 30) is False


def test_of_several_certificates_the_first_to_end_counts() -> None:
    (_key, ca), key = authority("ca"), ec.generate_private_key(ec.SECP256R1())
    longer = certificate(x509.Name([]), ca.subject, key, key, 60, ["node"])
    assert 9.9 < days_left(pem(longer) + pem(ca)) < 10.1
    assert 59.9 < days_left(pem(longer)) < 60.1
    with pytest.raises(AnsibleFilterError, match="no certificate"):
        days_left("broken")


@pytest.mark.parametrize("passphrase", ["", "open sesame"])
def test_the_key_says_which_authority_signs(passphrase: str) -> None:
    (_key, old), (new_key, new) = authority("the same"), authority("the same")
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    text = new_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()
    assert signing_authority(pem(old) + pem(new), text, passphrase) == pem(new)
    with pytest.raises(AnsibleFilterError, match=r"None of the authorities in ca\.crt belongs to ca\.key"):
        signing_authority(pem(old), text, passphrase)
    with pytest.raises(AnsibleFilterError, match="pki_ca_passphrase"):
        signing_authority(pem(new), text, "wrong")


def test_names_and_addresses_are_told_apart() -> None:
    assert subject_alt_names(["node", "10.0.0.1", "::1", "node"]) == ["DNS:node", "IP:10.0.0.1", "IP:::1"]


def test_a_volume_tells_its_cluster() -> None:
    labels = {"io.citus_ha.cluster_id": "0af3"}
    volumes: list[dict[str, Any]] = [{"Name": "a", "Labels": labels}, {"Name": "b", "Labels": None}]
    assert [volume_owner(volumes, name) for name in ("a", "b", "c")] == ["0af3", "unknown", ""]


def test_tables_are_aligned() -> None:
    rows: list[dict[str, Any]] = [{"name": "worker1-1", "lag": 0}, {"name": "w", "lag": None}]
    assert text_table(rows, ["name", "lag"]) == ["name       lag", "worker1-1  0", "w"]


def test_every_filter_is_documented() -> None:
    folder = Path(__file__).resolve().parents[2] / "plugins" / "filter"
    names = set()
    for path in folder.glob("*.py"):
        module = importlib.import_module(f"ansible_collections.citus_ha.cluster.plugins.filter.{path.stem}")
        names |= set(module.FilterModule().filters())
    assert names == {path.stem for path in folder.glob("*.yml")}, "plugins/filter/NAME.yml holds its documentation"
