# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about certificates, evaluated on the controller."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterable, Mapping

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False


def subject_alt_names(names: Iterable[str]) -> list[str]:
    """``DNS:`` and ``IP:`` entries for names and addresses, sorted, each once."""
    entries = set()
    for name in names:
        try:
            entries.add(f"IP:{ipaddress.ip_address(str(name))}")
        except ValueError:
            entries.add(f"DNS:{name}")
    return sorted(entries)


def _require_cryptography(name: str) -> None:
    if not HAS_CRYPTOGRAPHY:
        raise AnsibleFilterError(f"{name} needs the Python package cryptography on the controller.")


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the signature is the issuer's."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def certificate_is_good(
    certificate: str,
    authority: str,
    names: Iterable[str],
    days: int,
    subject: Mapping[str, str] | None = None,
    key: str | None = None,
) -> bool:
    """Whether a PEM certificate is signed by an authority, for exactly these names, and valid for ``days`` more.

    ``authority`` is one certificate or several. ``subject`` is what the subject must be, such as ``{"CN": "node"}``,
    and ``key`` the private key (PEM, without a passphrase) that must belong to it. What cannot be read is not good.
    """
    _require_cryptography("certificate_is_good")
    try:
        node = x509.load_pem_x509_certificate(certificate.encode())
        extension = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        public = serialization.load_pem_private_key(key.encode(), None).public_key() if key is not None else None
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return False
    if not any(is_issued_by(node, issuer) for issuer in x509.load_pem_x509_certificates(authority.encode())):
        return False
    given = {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in node.subject}
    if subject is not None and given != dict(subject):
        return False
    if key is not None and node.public_key() != public:
        return False
    found = {f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)}
    found |= {f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)}
    return found == set(names) and days_left(certificate) > int(days)


def days_left(certificate: str) -> float:
    """For how many days a PEM certificate is still valid; of several, the one that ends first. Negative afterwards."""
    _require_cryptography("days_left")
    try:
        ends = min(entry.not_valid_after_utc for entry in x509.load_pem_x509_certificates(certificate.encode()))
    except ValueError as error:
        raise AnsibleFilterError(f"This is no certificate: {error}.") from error
    return (ends - datetime.datetime.now(tz=datetime.UTC)) / datetime.timedelta(days=1)


def signing_authority(authorities: str, key: str, passphrase: str = "") -> str:
    """The certificate that belongs to the private key, out of several in one PEM text.

    While an authority is replaced the nodes trust two, and the key says which of them signs.
    """
    _require_cryptography("signing_authority")
    try:
        public = serialization.load_pem_private_key(key.encode(), passphrase.encode() or None).public_key()
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"The authority's key cannot be read: {error}. Is pki_ca_passphrase right?") from error
    for certificate in x509.load_pem_x509_certificates(authorities.encode()):
        if certificate.public_key() == public:
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise AnsibleFilterError(
        "None of the authorities in ca.crt belongs to ca.key: put the pair of one authority there, or remove ca.key if "
        "the nodes' certificates come from elsewhere."
    )


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {
            "subject_alt_names": subject_alt_names,
            "certificate_is_good": certificate_is_good,
            "days_left": days_left,
            "signing_authority": signing_authority,
        }
