# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters about certificates, evaluated on the controller."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterable

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
    certificate: str, authority: str, names: Iterable[str], days: int, common_name: str | None = None
) -> bool:
    """Whether a PEM certificate is signed by an authority, for exactly these names, and valid for ``days`` more.

    ``authority`` is one certificate or several. ``common_name`` is what its ``CN`` must be, empty for none at all.
    """
    _require_cryptography("certificate_is_good")
    node = x509.load_pem_x509_certificate(certificate.encode())
    if not any(is_issued_by(node, issuer) for issuer in x509.load_pem_x509_certificates(authority.encode())):
        return False
    given = [str(attribute.value) for attribute in node.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if common_name is not None and given != ([common_name] if common_name else []):
        return False
    extension = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = {f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)}
    found |= {f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)}
    remaining = node.not_valid_after_utc - datetime.datetime.now(tz=datetime.UTC)
    return found == set(names) and remaining > datetime.timedelta(days=int(days))


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
            "signing_authority": signing_authority,
        }
