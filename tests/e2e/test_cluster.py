# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A whole cluster, from an empty engine (``demo``, tests/conftest.py) to its removal. The tests build on each other."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import artifact
import psycopg2
import pytest
import yaml
from ansible_collections.citus_ha.cluster.plugins.module_utils._entrance import LOCK_PLANNED_WORK
from ansible_collections.citus_ha.cluster.plugins.module_utils._lock import LOCK_CLASS
from cluster import PREFIX, Again, Cluster, eventually
from load import load, readers

from playbooks import REPOSITORY, citus_sources

EVENTS = [("login", 3, 3), ("logout", 1, 1), ("purchase", 2, 2)]
CHANGED = (
    "-e",
    '{"postgres_parameters": {"work_mem": "3MB", "max_locks_per_transaction": 128}}',
    "-e",
    "pgbouncer_default_pool_size=30",
)
TTL = 30
"""``postgres_ttl`` of the default profile."""
ASK = "SELECT event_type, count(*), count(DISTINCT user_id) FROM events GROUP BY 1 ORDER BY 1"


def healthy(demo: Cluster) -> bool:
    """Whether verify.yml says so."""
    return demo.play("verify").code == 0


def test_every_container_of_the_drawing_runs(demo: Cluster) -> None:
    running = {c.name.removeprefix(PREFIX) for c in demo.containers(everything=False)}
    servers = [f"{group}-{n}" for group in ("coordinator", "worker1", "worker2") for n in (1, 2)]
    assert running == {
        *(f"etcd-{n}" for n in (1, 2, 3)),
        *(f"{server}{beside}" for server in servers for beside in ("", "-lease")),
        "pgbouncer-1",
        "pgbouncer-1-haproxy",
        "postgres-1",
    }


def test_a_second_run_changes_nothing(again: Again) -> None:
    assert again.run.succeeded().changed == {}


def test_check_mode_shows_exactly_a_changed_variable(demo: Cluster) -> None:
    run = demo.play("site", "--check", "--diff", "-e", "pgbouncer_default_pool_size=41").succeeded()
    assert run.changed == {f"{PREFIX}pgbouncer-1": 1}
    assert "-default_pool_size = 40" in run.output and "+default_pool_size = 41" in run.output
    assert "default_pool_size = 40" in demo.inside("pgbouncer-1", "cat", "/etc/citus_ha/pgbouncer/pgbouncer.ini")


def test_the_example_runs_through_pgbouncer(demo: Cluster) -> None:
    output = demo.play("example").succeeded().output
    assert "purchase" in output
    assert demo.query(ASK) == EVENTS
    demo.play("example").succeeded()
    assert demo.query("SELECT count(*) FROM events") == [(6,)]


def test_rows_are_spread_over_both_worker_groups(demo: Cluster) -> None:
    rows = demo.query(
        "SELECT n.groupid, count(*) FROM pg_dist_placement p"
        " JOIN pg_dist_node n USING (groupid) JOIN pg_dist_shard s USING (shardid)"
        " WHERE s.logicalrelid = 'events'::regclass AND n.noderole = 'primary' GROUP BY 1 ORDER BY 1"
    )
    assert [group for group, _count in rows] == [1, 2]
    assert {count for _group, count in rows} == {16}


def test_status_shows_nodes_shards_and_replication(demo: Cluster) -> None:
    output = demo.play("status").succeeded().output
    assert output.count("leader") == 3 and output.count("streaming") == 3
    assert "public.events" in output
    assert demo.inside("worker1-1", "patronictl", "list").count("streaming") == 3


def test_the_cluster_is_healthy(demo: Cluster) -> None:
    assert "is healthy" in demo.play("verify").succeeded().output


@pytest.mark.slow
def test_what_gives_leases_up_is_missed(demo: Cluster) -> None:
    keeper = demo.docker.containers.get(f"{PREFIX}worker1-1-lease")
    keeper.kill()
    try:
        checked = demo.play("verify")
        assert checked.code != 0 and "worker1-1-lease does not run" in " ".join(checked.output.split()), checked.tail
    finally:
        keeper.start()
    assert healthy(demo)


@pytest.mark.slow
def test_a_transaction_that_nobody_decides_is_missed(demo: Cluster) -> None:
    leader = demo.leader("worker1")
    demo.psql(leader, "BEGIN; CREATE TABLE forgotten (); PREPARE TRANSACTION 'forgotten'", database="postgres")
    try:
        checked = demo.play("verify", "-e", "status_max_in_doubt=0")
        said = "the transaction forgotten of postgres in postgres has been in doubt"
        assert checked.code != 0 and said in " ".join(checked.output.split()), checked.tail
    finally:
        demo.psql(leader, "ROLLBACK PREPARED 'forgotten'", database="postgres")
    assert healthy(demo)


@pytest.mark.slow
@pytest.mark.skipif(citus_sources() == ["standin"], reason="nobody decides transactions of the stand-in")
def test_a_leader_that_was_replaced_decides_nothing(demo: Cluster) -> None:
    """Its Patroni stopped, it still takes itself for the leader, and its successor names transactions alike."""
    old, other = demo.leader("worker1"), demo.leader("worker2")
    heir = "worker1-2" if old == "worker1-1" else "worker1-1"
    patroni = "$(pgrep -n -f '[b]in/patroni')"
    decided = b"recovered a prepared transaction"
    before = {node: demo.docker.containers.get(PREFIX + node).logs().count(decided) for node in (old, heir)}
    demo.inside(old, "sh", "-c", f"kill -STOP {patroni}")
    try:
        eventually(lambda: demo.psql(heir, "SELECT NOT pg_is_in_recovery()") == "t")
        demo.psql(other, "BEGIN; CREATE TABLE in_doubt (); PREPARE TRANSACTION 'citus_1_4242_7_1'")
        for _round in range(3):
            demo.inside(old, "sh", "/etc/citus_ha/postgres/decide.sh")
        eventually(lambda: demo.psql(other, "SELECT count(*) FROM pg_prepared_xacts") == "0")
        assert demo.psql(old, "SELECT NOT pg_is_in_recovery()") == "t", "it was there all the time"
    finally:
        demo.inside(old, "sh", "-c", f"kill -CONT {patroni}")
    after = {node: demo.docker.containers.get(PREFIX + node).logs().count(decided) for node in (old, heir)}
    assert (after[old], after[heir]) == (before[old], before[heir] + 1)
    eventually(lambda: healthy(demo), timeout=180)


def test_the_installed_collection_works_by_name_from_anywhere(demo: Cluster, again: Again) -> None:
    folder = again.installed
    for playbook in ("status", "verify"):
        ran = artifact.run("ansible-playbook", f"citus_ha.cluster.{playbook}", "-i", str(demo.inventory), folder=folder)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "is healthy" in ran.stdout


def test_ansible_finds_the_leaders_in_etcd(demo: Cluster, tmp_path: Path) -> None:
    login = demo.etcd_login()
    network = demo.docker.containers.get(f"{PREFIX}etcd-2").attrs["NetworkSettings"]["Networks"]
    client = demo.inventory / f".secrets/pki/etcd_client@{PREFIX}worker1-1"
    asked = {
        "plugin": "citus_ha.cluster.patroni",
        "etcd_urls": [f"https://{next(iter(network.values()))['IPAddress']}:2379"],
        "etcd_user": login["username"],
        "etcd_password": login["password"],
        "namespace": "/citus_ha/",
        "scope": demo.variables["cluster_name"],
        "ca_cert": str(demo.inventory / ".secrets/pki/ca.crt"),
        "client_cert": f"{client}.crt",
        "client_key": f"{client}.key",
    }
    (tmp_path / "patroni.yml").write_text(yaml.safe_dump(asked))
    listed = subprocess.run(
        [Path(sys.executable).with_name("ansible-inventory"), "-i", tmp_path / "patroni.yml", "--list"],
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(listed.stdout)
    leaders = [PREFIX + demo.leader(group) for group in ("coordinator", "worker1", "worker2")]
    assert sorted(seen["patroni_leader"]["hosts"]) == leaders, listed.stderr
    assert seen["citus_coordinator_leader"]["hosts"] == leaders[:1]


def test_the_application_role_reaches_the_shards_from_every_server(demo: Cluster) -> None:
    for node in ("coordinator", "worker1", "worker2"):
        assert demo.psql(demo.leader(node), "SELECT count(*) FROM events", user="app") == "6"


def test_the_application_role_is_no_superuser_and_the_superuser_stays_inside(demo: Cluster) -> None:
    assert demo.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    with pytest.raises(psycopg2.OperationalError, match=r"pg_hba\.conf rejects"):
        demo.connect(user="postgres", password="anything", port=25432)
    with pytest.raises(psycopg2.OperationalError):
        demo.connect(sslmode="disable")


def test_a_thousand_clients_share_the_pool(demo: Cluster) -> None:
    _soft, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    clients = []
    try:
        for number in range(1000):
            clients.append(demo.connect())
            # Each has had an answer, over far fewer connections to the server.
            with clients[-1].cursor() as cursor:
                cursor.execute("SELECT %s", (number,))
                assert cursor.fetchone() == (number,)
        used = demo.psql(demo.leader("coordinator"), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
        assert int(used) <= 40
    finally:
        for client in clients:
            client.close()


def test_memory_settings_follow_the_limit(demo: Cluster) -> None:
    assert demo.psql("worker1-1", "SHOW shared_buffers") == "128MB"
    assert demo.psql("worker1-1", "SHOW effective_cache_size") == "384MB"


def test_no_write_is_lost_when_every_container_restarts_in_turn(demo: Cluster) -> None:
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        key = 0
        while not stop.is_set():
            key += 1
            try:
                demo.query("INSERT INTO ledger (key) VALUES (%s)", (key,))
                acknowledged.append(key)
            except psycopg2.Error:
                time.sleep(0.2)

    demo.query("CREATE TABLE ledger (key bigint PRIMARY KEY)")
    demo.query("SELECT create_distributed_table('ledger', 'key')", port=25000)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for container in sorted(demo.containers(), key=lambda c: c.name):
            container.restart(timeout=30)
            # Writes go on before the next one is restarted.
            enough = len(acknowledged) + 3
            eventually(partial(lambda enough: len(acknowledged) > enough, enough), timeout=120)
    finally:
        stop.set()
        writer.join()
    stored = {key for (key,) in demo.query("SELECT key FROM ledger")}
    assert set(acknowledged) <= stored
    eventually(lambda: healthy(demo), timeout=180)


def test_a_leader_that_stands_still_keeps_its_lease(demo: Cluster) -> None:
    old = demo.leader("worker2")
    frozen, keeper = (demo.docker.containers.get(PREFIX + name) for name in (old, f"{old}-lease"))
    said = keeper.logs()
    frozen.pause()
    try:
        time.sleep(8)  # a dead one's would be gone long since
        assert keeper.logs() == said
    finally:
        frozen.unpause()
    assert demo.leader("worker2") == old
    eventually(lambda: healthy(demo))


@pytest.mark.parametrize("group", ["worker1", "coordinator"])
def test_a_killed_leader_is_replaced_and_rejoins(demo: Cluster, group: str) -> None:
    old = demo.leader(group)
    count = demo.query("SELECT count(*) FROM ledger")
    container = demo.docker.containers.get(PREFIX + old)
    errors: list[str] = []

    def written() -> bool:
        """An insert that reaches all shards: nodes log in to each other after the failover, too."""
        try:
            demo.query("INSERT INTO ledger SELECT g FROM generate_series(10000000, 10000099) g ON CONFLICT DO NOTHING")
        except psycopg2.Error as error:
            errors.append(str(error))
            return False
        return True

    killed = time.monotonic()
    container.kill()
    eventually(written, timeout=150, interval=0.1)
    # Its lease lasts for 25 to 30 seconds.
    assert time.monotonic() - killed < 20
    assert b"gave up its lease" in demo.docker.containers.get(f"{PREFIX}{old}-lease").logs()
    assert [error for error in errors if "read-only" in error] == [], "a new leader is led to when it takes writes"
    assert eventually(lambda: demo.leader(group), timeout=30) != old
    assert demo.query("SELECT count(*) FROM ledger")[0][0] >= count[0][0]
    container.start()
    eventually(lambda: healthy(demo), timeout=180)


@pytest.mark.parametrize("group", ["coordinator", "worker1"])
def test_a_switchover_under_load_causes_no_error_and_loses_nothing(demo: Cluster, group: str) -> None:
    old = demo.leader(group)
    with load(demo), readers(demo):
        refused = demo.play("switchover", "-e", f"group={group}", "-e", "candidate=nobody")
        assert refused.code != 0 and "has no member nobody" in refused.output
        demo.play("switchover", "-e", f"group={group}").succeeded()
    assert demo.leader(group) != old
    # Not Patroni, which looks once a second
    stopped = demo.docker.containers.get(f"{PREFIX}{old}").logs(tail=400).decode()
    assert re.search(r"before_stop script .* exited with 0", stopped)
    assert "clients_are_held" not in demo.inside(old, "ls", "/run/postgresql")
    # Who leads already is left alone.
    candidate = f"candidate={PREFIX}{demo.leader(group)}"
    assert demo.play("switchover", "-e", f"group={group}", "-e", candidate).succeeded().changed == {}


@pytest.mark.slow
def test_a_login_that_nobody_needed_any_more_costs_no_client_a_switchover(demo: Cluster) -> None:
    """PgBouncer keeps in mind that a login failed, and has no session after PAUSE: it would refuse who comes next."""
    leader = demo.leader("coordinator")
    pooler = demo.docker.containers.get(f"{PREFIX}pgbouncer-1")
    idle, extra = demo.connect(), demo.connect()
    idle.cursor().execute("SELECT 1")
    busy: list[psycopg2.extensions.connection] = []
    while not busy or free_sessions(demo):
        busy.append(demo.connect())
        busy[-1].cursor().execute("BEGIN; SELECT 1")
    began = time.time()
    asking = threading.Thread(target=lambda: extra.cursor().execute("SELECT 1"))
    signal_postmaster(demo, leader, "STOP")
    try:
        # One session more is wanted, and not any more once others are free.
        asking.start()
        eventually(lambda: b"new connection to server" in pooler.logs(since=began), timeout=5)
        for connection in busy:
            connection.cursor().execute("COMMIT")
        asking.join()
        eventually(lambda: b"connect timeout" in pooler.logs(since=began), timeout=20)
    finally:
        signal_postmaster(demo, leader, "CONT")
    demo.play("switchover", "-e", "group=worker1").succeeded()
    idle.cursor().execute("SELECT 1")
    for connection in (idle, extra, *busy):
        connection.close()


def free_sessions(demo: Cluster) -> int:
    """How many sessions with the server PgBouncer has at hand for the application."""
    console = ("psql", "--host=/run/pgbouncer", "--port=6432", "--username=pgbouncer", "-XAtq", "--dbname=pgbouncer")
    pools = [line.split("|") for line in demo.inside("pgbouncer-1", *console, "--command=SHOW POOLS").splitlines()]
    # database, user; the tenth and the eleventh are idle and used
    return sum(int(pool[9]) + int(pool[10]) for pool in pools if pool[:2] == ["app", "app"])


def signal_postmaster(demo: Cluster, node: str, name: str) -> None:
    """The one process of PostgreSQL that takes new sessions."""
    demo.inside(node, "sh", "-c", f"kill -{name} $(head -n 1 /var/lib/citus_ha/postgres/*/postmaster.pid)")


@pytest.mark.slow
def test_everything_restarts_under_load_without_an_error(demo: Cluster) -> None:
    groups = ("coordinator", "worker1", "worker2")
    servers = [node for node in demo.nodes() if node.startswith(groups)]
    started = "SELECT pg_postmaster_start_time()"
    before = {node: demo.psql(node, started) for node in servers}
    leaders = [demo.leader(group) for group in groups]
    with load(demo), readers(demo):
        demo.play("restart").succeeded()
    assert all(demo.psql(node, started) != before[node] for node in servers)
    assert all(demo.leader(group) != leader for group, leader in zip(groups, leaders, strict=True))
    eventually(lambda: healthy(demo), timeout=60)


@pytest.mark.slow
def test_a_standby_leads_by_force_and_the_first_members_lead_again(demo: Cluster) -> None:
    group = "worker2"
    old = demo.leader(group)
    node = "worker2-2" if old == "worker2-1" else "worker2-1"
    refused = demo.play("failover", "-e", f"node={PREFIX}{node}")
    assert refused.code != 0 and "-e confirm=yes" in refused.output
    assert demo.leader(group) == old
    demo.play("failover", "-e", f"node={PREFIX}{node}", "-e", "confirm=yes").succeeded()
    # Whoever led is made a standby, and does not answer meanwhile.
    eventually(lambda: demo.leader(group) == node)
    eventually(lambda: healthy(demo), timeout=60)
    with load(demo):
        demo.play("balance").succeeded()
    leaders = [demo.leader(name) for name in ("coordinator", "worker1", "worker2")]
    assert leaders == ["coordinator-1", "worker1-1", "worker2-1"]
    assert demo.play("balance").succeeded().changed == {}


@contextmanager
def open_transaction(demo: Cluster, **parameters: Any) -> Iterator[None]:
    """A client that has one, and can end it in peace when the block is over."""
    client = demo.connect(**parameters)
    try:
        with client.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1")
            yield
            cursor.execute("SELECT 2")
            cursor.execute("COMMIT")
    finally:
        client.close()


@contextmanager
def paused_pooler(demo: Cluster) -> Iterator[None]:
    """Somebody has said PAUSE."""
    console = ("psql", "-XAtq", "-h", "/run/pgbouncer", "-p", "6432", "-U", "pgbouncer", "pgbouncer", "-c")
    demo.inside("pgbouncer-1", *console, "PAUSE")
    try:
        yield
    finally:
        demo.inside("pgbouncer-1", *console, "RESUME")


@contextmanager
def another_switchover(demo: Cluster) -> Iterator[None]:
    """A session that holds the lock of one."""
    lock = f"SELECT pg_advisory_lock({LOCK_CLASS}, {LOCK_PLANNED_WORK})"
    psql = [
        "psql",
        "-h",
        "/run/postgresql",
        "-U",
        "postgres",
        "-d",
        "postgres",
        "-XAtq",
        "-c",
        lock,
        "-c",
        "\\echo held",
    ]
    command = ["docker", "exec", "-i", PREFIX + demo.leader("coordinator"), *psql, "-c", "SELECT pg_sleep(120)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        while "held" not in holder.stdout.readline():
            assert holder.poll() is None
        try:
            yield
        finally:
            asleep = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(120)'"
            demo.psql(demo.leader("coordinator"), asleep)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hindrance", "words", "held"),
    [
        (open_transaction, "PgBouncer still had transactions open after 2 seconds, and goes on as before.", True),
        (partial(open_transaction, port=25000), "Nothing was changed and clients go on as before.", True),
        (paused_pooler, "PgBouncer is paused already", False),
        (another_switchover, "Another switchover or restart is running", False),
    ],
    ids=["a client in a transaction", "a client past the pooler", "a paused pooler", "another switchover"],
)
def test_a_switchover_that_would_break_something_is_not_made(
    demo: Cluster, hindrance: Callable[[Cluster], AbstractContextManager[None]], words: str, held: bool
) -> None:
    leader, pooler = demo.leader("coordinator"), demo.docker.containers.get(f"{PREFIX}pgbouncer-1")
    with hindrance(demo):
        before = pooler.logs().count(b"PAUSE command issued")
        refused = demo.play("switchover", "-e", "group=coordinator", "-e", "cluster_drain_timeout=2")
        assert refused.code != 0 and words in " ".join(refused.output.split()), refused.tail
        assert (pooler.logs().count(b"PAUSE command issued") > before) is held, "clients wait for what can be"
    assert demo.leader("coordinator") == leader
    assert demo.query("SELECT 1") == [(1,)], "no pooler is paused"


@pytest.mark.slow
def test_nobody_takes_over_during_maintenance(demo: Cluster) -> None:
    leader = demo.leader("worker1")
    standby = "worker1-1" if leader == "worker1-2" else "worker1-2"
    demo.play("pause", "-e", "group=worker1").succeeded()
    try:
        refused = demo.play("switchover", "-e", "group=worker1")
        assert refused.code != 0 and "is paused for maintenance" in " ".join(refused.output.split())
        assert demo.play("switchover", "-e", "group=worker2").succeeded().changed
        demo.docker.containers.get(PREFIX + leader).kill()
        time.sleep(TTL + 5)
        assert demo.psql(standby, "SELECT pg_is_in_recovery()", database="postgres") == "t"
        # Nobody leads the group by now, and that is no hindrance.
        assert demo.play("pause", "-e", "group=worker1").succeeded().changed == {}
    finally:
        demo.docker.containers.get(PREFIX + leader).start()
        demo.play("resume").succeeded()
    # Who leads then is Patroni's to say again.
    eventually(lambda: healthy(demo), timeout=120)
    assert demo.play("switchover", "-e", "group=worker1").succeeded().changed


@pytest.mark.slow
def test_without_any_etcd_the_leaders_lead_on(demo: Cluster) -> None:
    """Patroni's failsafe mode: longer than a lease lasts, and nobody notices."""
    groups = ("coordinator", "worker1", "worker2")
    timeline = "SELECT timeline_id FROM pg_control_checkpoint()"
    before = {group: (demo.leader(group), demo.psql(demo.leader(group), timeline)) for group in groups}
    members = [demo.docker.containers.get(f"{PREFIX}etcd-{number}") for number in (1, 2, 3)]
    with load(demo) as seen:
        for member in members:
            member.kill()
        try:
            done = seen.done
            time.sleep(TTL + 10)
            assert seen.done > done + TTL, seen
        finally:
            for member in members:
                member.start()
    assert {group: (demo.leader(group), demo.psql(demo.leader(group), timeline)) for group in groups} == before
    eventually(lambda: healthy(demo), timeout=120)


@pytest.mark.slow
def test_a_broken_standby_is_built_anew(demo: Cluster) -> None:
    standby = "worker1-1" if demo.leader("worker1") == "worker1-2" else "worker1-2"
    demo.inside(standby, "sh", "-c", "rm -rf /var/lib/citus_ha/postgres/data/base")
    demo.docker.containers.get(PREFIX + standby).restart(timeout=10)
    eventually(lambda: not healthy(demo))
    demo.play("reinit", "-e", f"node={PREFIX}{standby}").succeeded()
    eventually(lambda: healthy(demo), timeout=120)


def test_logs_and_dump(demo: Cluster, tmp_path: Path) -> None:
    assert (
        "no action. I am"
        in demo.play("logs", "-e", f"node={PREFIX}worker1-1", "-e", "service_log_lines=20").succeeded().output
    )
    demo.play("dump", "-e", f"postgres_dump_path={tmp_path}/").succeeded()
    demo.play("dump", "-e", "node=worker2", "-e", f"postgres_dump_path={tmp_path}/").succeeded()
    dumps = sorted(tmp_path.iterdir())
    assert len(dumps) == 2
    assert all(dump.read_bytes()[:5] == b"PGDMP" for dump in dumps)


@pytest.mark.timeout(1800)
def test_settings_and_nodes_change_by_running_the_playbook_again(demo: Cluster) -> None:
    """Servers of workers restart where they are, those of the coordinator are replaced, and no client has an error."""
    demo.groups["workers"]["children"]["worker3"] = {
        "vars": {"citus_group": 3},
        "hosts": {f"{PREFIX}worker3-{n}": {} for n in (1, 2)},
    }
    coordinators = demo.groups["coordinator"]["hosts"]
    demo.groups["coordinator"]["hosts"] = {
        name: {**variables, "postgres_memory": "448m"} for name, variables in coordinators.items()
    }
    demo.save()
    leaders = [demo.leader(group) for group in ("coordinator", "worker1", "worker2")]
    with load(demo), readers(demo):
        run = demo.play("site", *CHANGED).succeeded()
    assert f"{PREFIX}pgbouncer-1" in run.changed
    assert leaders[1:] == [demo.leader(group) for group in ("worker1", "worker2")]
    assert leaders[0] != demo.leader("coordinator")
    for node in ("coordinator-1", "coordinator-2"):
        assert demo.docker.containers.get(PREFIX + node).attrs["HostConfig"]["Memory"] == 448 * 2**20
        assert "noloadbalance" not in demo.inside(node, "cat", "/etc/citus_ha/postgres/patroni.yml")
    for node in ("coordinator-1", "worker1-1", "worker2-2", "worker3-1", "postgres-1"):
        assert demo.psql(node, "SHOW work_mem") == "3MB"
        assert demo.psql(node, "SHOW max_locks_per_transaction") == "128"  # needs a restart, and got it
    assert "default_pool_size = 30" in demo.inside("pgbouncer-1", "cat", "/etc/citus_ha/pgbouncer/pgbouncer.ini")
    assert demo.query(ASK) == EVENTS


@pytest.mark.slow
def test_what_was_changed_is_changed_once(demo: Cluster) -> None:
    assert demo.play("site", *CHANGED).succeeded().changed == {}


@pytest.mark.slow
def test_a_run_that_was_broken_off_is_finished_by_the_next(demo: Cluster) -> None:
    """Between the configuration and the signal: the file that remembers it is what such a run leaves."""
    node = f"{PREFIX}pgbouncer-1"
    remembered = Path(f"/var/lib/citus_ha/citus_ha_test/{node}/etc/citus_ha/{node}.pending")
    remembered.write_text(json.dumps(["/etc/citus_ha/pgbouncer/pgbouncer.ini"]), encoding="utf-8")
    assert demo.play("site", *CHANGED).succeeded().changed.keys() == {node}
    assert not remembered.exists()
    assert demo.play("site", *CHANGED).succeeded().changed == {}


def test_a_third_worker_group_takes_its_share(demo: Cluster) -> None:
    demo.play("rebalance").succeeded()
    shards = demo.query(
        "SELECT count(*) FROM pg_dist_placement p JOIN pg_dist_node n USING (groupid)"
        " WHERE noderole = 'primary' AND groupid = 3"
    )
    assert shards[0][0] > 0
    assert demo.query(ASK) == EVENTS
    assert healthy(demo)


def test_stopped_and_started_the_data_is_kept(demo: Cluster) -> None:
    demo.play("stop").succeeded()
    assert demo.containers(everything=False) == []
    demo.play("start").succeeded()
    assert eventually(lambda: demo.query(ASK)) == EVENTS
    eventually(lambda: healthy(demo), timeout=120)
    # A Patroni that has just started writes localhost, where Citus cannot reach its own server.
    for node in ("coordinator-1", "coordinator-2", "worker1-1", "worker1-2"):
        assert demo.psql(node, "SHOW citus.local_hostname") == "/run/postgresql"


def test_destroy_leaves_nothing_behind(demo: Cluster) -> None:
    part = demo.play("destroy", "-e", "confirm=yes", "--limit", f"{PREFIX}worker1-2")
    assert part.code != 0 and "Run it without --limit. Nothing was changed." in " ".join(part.output.split())
    refused = demo.play("destroy")
    assert refused.code != 0 and "confirm=yes" in refused.output
    demo.destroy().succeeded()
    assert demo.containers() == []
    assert [v.name for v in demo.docker.volumes.list() if "citus_ha_test" in v.name] == []
    assert [n.name for n in demo.docker.networks.list() if "citus_ha_test" in n.name] == []
    assert not (demo.inventory / ".secrets").exists()
    assert not Path("/var/lib/citus_ha/citus_ha_test").exists()
