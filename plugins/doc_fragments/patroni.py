# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options with which modules reach Patroni's REST API."""

from __future__ import annotations


class ModuleDocFragment:
    """Options as ``module_utils/_patroni.py`` reads them."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - Address of the REST API of any member of the group.
      - The other members are reached at the addresses they announce (C(restapi.connect_address)), with the same
        certificates.
    type: str
    default: https://localhost:8008
  ca_cert:
    description:
      - File with the certificate authority that signed the API's certificates. Nothing else is trusted.
      - An empty string trusts the system's authorities. Not used with an C(http://) address.
    type: path
    default: /etc/citus_ha/tls/ca.crt
  client_cert:
    description:
      - File with the certificate to show to the API. Patroni asks for it before anything that changes
        when C(restapi.verify_client) is C(optional) or C(required).
      - An empty string shows none.
    type: path
    default: /etc/citus_ha/tls/node.crt
  client_key:
    description: File with the key of O(client_cert), without passphrase. Only its path is passed.
    type: path
    default: /etc/citus_ha/tls/node.key
  timeout:
    description: Seconds to wait for one answer.
    type: int
    default: 10
"""
