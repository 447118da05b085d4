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


def certificate_is_good(certificate: str, authority: str, names: Iterable[str], days: int) -> bool:
    """Whether a PEM certificate is signed by the authority, for exactly these names, and valid for ``days`` more."""
    if not HAS_CRYPTOGRAPHY:
        raise AnsibleFilterError("certificate_is_good needs the Python package cryptography on the controller.")
    node = x509.load_pem_x509_certificate(certificate.encode())
    issuer = x509.load_pem_x509_certificate(authority.encode())
    try:
        node.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    extension = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = {f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)}
    found |= {f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)}
    remaining = node.not_valid_after_utc - datetime.datetime.now(tz=datetime.UTC)
    return found == set(names) and remaining > datetime.timedelta(days=int(days))


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Names as used in templates."""
        return {"subject_alt_names": subject_alt_names, "certificate_is_good": certificate_is_good}
