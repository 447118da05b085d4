# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options with which every module of the collection opens its session."""

from __future__ import annotations


class ModuleDocFragment:
    """Connection options, as ``module_utils/_connection.py`` reads them."""

    DOCUMENTATION = r"""
requirements:
  - Python >= 3.9 on the host where the module runs
  - psycopg2 >= 2.9 there
options:
  login_host:
    description:
      - Host name or address of the server, or the folder of its Unix socket.
    type: str
    default: /var/run/postgresql
  login_port:
    description: Port of the server.
    type: int
    default: 5432
  login_user:
    description: Role to log in as.
    type: str
    default: postgres
  login_password:
    description: Password of O(login_user). Not needed with peer or certificate authentication.
    type: str
  login_db:
    description: Database to work in. For Citus, the database that has the extension.
    type: str
    default: postgres
  ssl_mode:
    description:
      - How TLS is negotiated, as libpq's C(sslmode).
      - V(prefer) does not protect against an attacker in between; use V(verify-full) over a network.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  ca_cert:
    description: File with the certificate authority that signed the server's certificate (C(sslrootcert)).
    type: path
  ssl_cert:
    description: File with the client certificate (C(sslcert)).
    type: path
  ssl_key:
    description: File with the key of O(ssl_cert), mode 0600 (C(sslkey)).
    type: path
  connect_params:
    description: Further libpq connection parameters. The options of this module win over them.
    type: dict
    default: {}
  connect_timeout:
    description: Seconds to wait for the connection.
    type: int
    default: 10
  lock_timeout:
    description:
      - Milliseconds a statement may wait for a lock on the server that the task is connected to; 0 waits for ever.
      - Citus waits on other nodes in sessions of its own, which this does not reach. O(statement_timeout) ends those
        waits too.
    type: int
    default: 0
  statement_timeout:
    description: Milliseconds a statement may run; 0 for no limit.
    type: int
    default: 0
"""
