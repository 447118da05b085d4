#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: citus_distribute
short_description: How tables of a Citus database are distributed
version_added: 0.1.0
author: citus_ha contributors (@citus-ha)
description:
  - Makes tables distributed, reference, managed local or plain tables again, and schemas distributed ones (schema-based
    sharding), one or many in one task.
  - Compares with the catalogs first, and changes only what differs. The catalogs are read in a constant number of
    queries, however many tables there are.
  - Everything that stands in the way is reported at once and before the first change, with the statements that would
    mend it. Nothing is rewritten, dropped, or undistributed beyond the coordinator's disk without an option that says
    so; what a whole schema needs there is not measured.
  - The entries may be in any order. Reference tables, tables that foreign keys lead to, and tables that others are to
    be colocated with come first. Where no order does (foreign keys in a circle, or tables that Citus made local ones
    because of a reference table), the foreign keys are dropped and added again in the same transaction.
  - Takes effect in one transaction where Citus allows that; see O(concurrently) and RV(transactions). Otherwise a run
    that failed reports what it finished, and the next run does the rest.
  - Run it on the coordinator, or name the coordinator with O(login_host).
extends_documentation_fragment:
  - citus_ha.cluster.connection
  - citus_ha.cluster.attributes
options:
  name:
    description:
      - Table as SQL writes it, V(table) or V(schema.table). Upper case and other characters than letters, digits and
        underscores need double quotes, as in C('"Order Lines"'). Without a schema the search path decides.
      - With O(kind=schema) or O(state=schema), the name of a schema.
      - Exactly one of O(name) and O(tables) is needed.
    type: str
  tables:
    description:
      - Tables and schemas, each with its own options. What an entry leaves out it takes from the options of the task.
    type: list
    elements: dict
    suboptions:
      name:
        description: See O(name).
        type: str
        required: true
      kind:
        description: See O(kind).
        type: str
        choices: [table, schema]
      state:
        description: See O(state).
        type: str
        choices: [distributed, reference, schema, local, undistributed]
      column:
        description: See O(column).
        type: str
      colocate_with:
        description: See O(colocate_with).
        type: str
      shard_count:
        description: See O(shard_count).
        type: int
      concurrently:
        description: See O(concurrently).
        type: bool
      allow_redistribute:
        description: See O(allow_redistribute).
        type: bool
      extend_keys:
        description: See O(extend_keys).
        type: bool
      cascade:
        description: See O(cascade).
        type: bool
      force:
        description: See O(force).
        type: bool
  kind:
    description: What O(name) names. O(state=schema) implies V(schema); needed to undistribute a schema.
    type: str
    choices: [table, schema]
    default: table
  state:
    description:
      - V(distributed) spreads the rows over shards by the hash of O(column).
      - V(reference) keeps a full copy on every node.
      - V(local) is a table on the coordinator that Citus manages, so that workers know it and it may have foreign keys
        with reference tables. A table that Citus added by itself because of such a foreign key is adopted.
      - V(undistributed) is a plain PostgreSQL table on the coordinator; a distributed schema becomes a plain one. A
        table that Citus manages by itself because of a foreign key counts as plain.
      - V(schema) puts all tables of a schema together on one node (schema-based sharding). Needs Citus 12.0.
    type: str
    choices: [distributed, reference, schema, local, undistributed]
    default: distributed
  column:
    description:
      - Distribution column, as the catalogs have it, without quotes. Required for O(state=distributed).
      - A primary key, a unique constraint or a unique index must include it; see O(extend_keys).
    type: str
  colocate_with:
    description:
      - A distributed table to be colocated with (joins by the distribution column then stay on one node), V(none) for a
        colocation group of its own, or V(default) for what Citus chooses - tables with the same column type and shard
        count.
      - V(none) and V(default) count when the table becomes distributed and are not compared afterwards.
      - Write V(public.none) for a table of that name.
    type: str
  shard_count:
    description:
      - Number of shards, 1 to 64000. Without it a new table gets C(citus.shard_count), or as many as O(colocate_with)
        has, and a distributed one keeps what it has.
    type: int
  concurrently:
    description:
      - Distribute without blocking writes (C(create_distributed_table_concurrently)); for tables that are not
        distributed yet.
      - Citus does it outside a transaction, one table after the other. What was interrupted is left as a local table
        managed by Citus, and the next run goes on from there.
      - Needs Citus 11.1, C(wal_level) logical and a replica identity, and from PostgreSQL 17.11 on V(citus) in
        C(output_plugin_libraries).
    type: bool
    default: false
  allow_redistribute:
    description:
      - Allow to rewrite a table that is already distributed - another O(column), O(shard_count), O(colocate_with), or
        another kind of table. Without it the task fails and tells the cost in rows, bytes and locks.
    type: bool
    default: false
  extend_keys:
    description:
      - Add the distribution column to primary keys, unique constraints and unique indexes that lack it. They then are
        unique only together with it.
    type: bool
    default: false
  cascade:
    description:
      - With O(state=undistributed) and O(state=local) take along all tables that foreign keys connect with the table.
      - With another O(shard_count) or O(colocate_with) take along all tables of the colocation group.
      - Tables that are all in the list and all to be undistributed need no O(cascade).
    type: bool
    default: false
  force:
    description:
      - Undistribute although the rows do not fit on the coordinator, or it is not known whether they do.
      - Change a table alone although Citus then drops its foreign keys with the tables it was colocated with.
      - Distribute O(concurrently) although the table has no replica identity.
    type: bool
    default: false
  wait_for_other_run:
    description:
      - Seconds to wait for another run that changes nodes or tables of the same database. After that the task fails and
        names who holds the lock. Check mode takes no lock.
    type: int
    default: 60
seealso:
  - name: Citus, table management
    description: The functions that this module calls.
    link: https://docs.citusdata.com/en/stable/develop/api_udf.html
  - name: Citus, choosing the distribution column
    description: Which column, and why keys must include it.
    link: https://docs.citusdata.com/en/stable/sharding/data_modeling.html
"""

EXAMPLES = r"""
- name: The events are distributed by user, and users with them
  citus_ha.cluster.citus_distribute:
    login_db: app
    tables:
      - {name: users, column: id}
      - {name: events, column: user_id, colocate_with: users}
      - {name: countries, state: reference}

- name: Show what would happen to a table with data, and what it would cost
  citus_ha.cluster.citus_distribute:
    login_db: app
    name: sales.orders
    column: customer_id
    shard_count: 64
    allow_redistribute: true
  check_mode: true
  diff: true

- name: A big table in production, without blocking writes, with keys that Citus can keep
  citus_ha.cluster.citus_distribute:
    login_db: app
    name: measurements
    column: device_id
    concurrently: true
    extend_keys: true

- name: One schema per tenant
  citus_ha.cluster.citus_distribute:
    login_db: app
    name: "{{ item }}"
    state: schema
  loop: [tenant_a, tenant_b]

- name: Back to a plain table, with all that foreign keys connect with it
  citus_ha.cluster.citus_distribute:
    login_db: app
    name: '"Order Lines"'
    state: undistributed
    cascade: true
"""

RETURN = r"""
tables:
  description:
    - The named tables and schemas as they are now, or in check mode as they would be, in the order of the task.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Qualified name, quoted where SQL needs it.
      type: str
      sample: public.events
    kind:
      description: V(table) or V(schema).
      type: str
      sample: table
    state:
      description: V(distributed), V(reference), V(local), V(undistributed) or V(schema).
      type: str
      sample: distributed
    column:
      description: Distribution column, or null.
      type: str
      sample: user_id
    shard_count:
      description: Number of shards, or null.
      type: int
      sample: 32
    colocation_id:
      description: Number of the colocation group; null where there is none, or where check mode cannot know it.
      type: int
      sample: 1
plan:
  description: What was changed, or in check mode would be, in this order. Empty when nothing differs.
  returned: success, and when the preflight failed
  type: list
  elements: dict
  contains:
    name:
      description: The table or schema.
      type: str
      sample: public.events
    action:
      description:
        - V(create), V(alter), V(convert) (undistributed, then made another kind) or V(undistribute); V(unlink) and
          V(link) for foreign keys that are dropped meanwhile.
      type: str
      sample: create
    before:
      description: What it was.
      type: str
      sample: plain table on the coordinator
    after:
      description: What it becomes.
      type: str
      sample: distributed by user_id, 32 shards
    statements:
      description: The SQL.
      type: list
      elements: str
      sample: ["SELECT create_distributed_table('public.events', 'user_id');"]
    lock:
      description: Who is blocked meanwhile.
      type: str
      sample: blocks writes to the table while its rows are copied (EXCLUSIVE); reading goes on until the end
    rows:
      description: Rows that are copied, as far as they are known.
      type: int
      sample: 6
    bytes:
      description: Size with indexes.
      type: int
      sample: 24576
    notes:
      description: What to know before saying yes.
      type: list
      elements: str
      sample: []
    also_changes:
      description: Tables that are not named but change with this one.
      type: list
      elements: str
      sample: []
transactions:
  description:
    - Number of transactions the plan takes. One means all or nothing. More are needed for O(concurrently), and for so
      many tables that the server could not hold the locks at once (C(max_locks_per_transaction)).
  returned: success
  type: int
  sample: 1
queries:
  description: The statements that changed something, in order.
  returned: success, and when a statement failed
  type: list
  elements: str
  sample: ["SELECT create_distributed_table('public.events', 'user_id');"]
findings:
  description: What stands in the way.
  returned: when the preflight failed
  type: list
  elements: dict
  contains:
    name:
      description: The table or schema.
      type: str
      sample: public.events
    problem:
      description: What is wrong.
      type: str
      sample: the primary key events_pkey (id) does not include the distribution column user_id.
    remedy:
      description: What to do.
      type: str
      sample: "Set extend_keys: true, or run:"
    statements:
      description: SQL that would mend it.
      type: list
      elements: str
      sample:
        - ALTER TABLE public.events DROP CONSTRAINT events_pkey, ADD CONSTRAINT events_pkey PRIMARY KEY (id, user_id);
finished:
  description: Tables that were changed before the failure and stay so.
  returned: when a statement failed
  type: list
  elements: str
  sample: [public.users]
not_done:
  description: Tables that were not changed, or whose change was rolled back.
  returned: when a statement failed
  type: list
  elements: str
  sample: [public.events]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils import _citus_distribute_run as _run
from ansible_collections.citus_ha.cluster.plugins.module_utils._connection import connection_argument_spec
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={**connection_argument_spec(), **_run.argument_spec()},
        mutually_exclusive=[("name", "tables")],
        required_one_of=[("name", "tables")],
        supports_check_mode=True,
    )
    run(module, _run.work)


if __name__ == "__main__":
    main()
