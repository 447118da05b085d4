# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation shared by the modules that work on a server and on the poolers before it at the same time."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that module_utils/_held.py reads. A half is what one of these modules does on one node."""

    DOCUMENTATION = r"""
notes:
  - The halves need no word from each other, and none from the controller once they have begun. A pooler whose half
    is ended, in whatever way, lets its clients go on at once; a process of its own on that node sees to it.
options:
  socket_dir:
    description:
      - The server's half, folder of the Unix socket of the server that the clients enter through.
      - A pooler's half, folder of PgBouncer's Unix socket.
    type: path
  socket_port:
    description: Port of that socket.
    type: int
    default: 5432
  poolers:
    description:
      - The server's half, names in the certificates of the poolers whose sessions must have ended before anything is
        done; it also waits for any other transaction from outside. Needs O(socket_dir).
    type: list
    elements: str
    default: []
  standbys:
    description:
      - The server's half, URLs of more servers that must be silent in that way, such as C(postgresql://10.0.0.12:5432).
        Readers of a standby of the coordinator work on the other groups, too.
      - They are logged in to as C(postgres), with O(client_cert). One that cannot be reached serves nobody.
    type: list
    elements: str
    default: []
  ssl_mode:
    description: How the certificates of O(standbys) are checked.
    type: str
    choices: [verify-full, verify-ca]
    default: verify-full
  drain_timeout:
    description:
      - Seconds that transactions have to end. After that nothing is done.
      - Where readers of standbys are held as well, they have so many, and everybody else after them.
    type: int
    default: 10
  start_at:
    description:
      - The moment, in seconds since 1970, before which no client is held and nothing is done. Halves that
        start a little apart, because Python takes its time, begin together then. At most ten seconds are waited.
      - When not given, each half begins at once.
    type: float
  target_host:
    description:
      - A pooler's half, host that PgBouncer connects to, which is an HAProxy. Not given when the work does not change
        where it leads.
    type: str
  target_port:
    description: A pooler's half, port that PgBouncer connects to.
    type: int
"""
