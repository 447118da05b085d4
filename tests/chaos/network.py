# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""What is done to the packets of one network, a container's or a machine's, and how it is undone.

All rules are in a chain of their own, and go in by one transaction or not at all. Nothing else is touched.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from errors import CannotHappen, DidNotHappen
from reach import Machine

CHAIN = "CITUS_HA_CHAOS"
HANDLE = "c17a:"
"""Of the queue that delays packets, so that it is known again."""
PACKAGES = {"iptables-restore": "iptables", "ip6tables-restore": "iptables", "tc": "iproute2"}
# What IPv6 has instead of ARP, which these rules do not see either.
NEIGHBOURS = tuple(f"-p ipv6-icmp --icmpv6-type neighbour-{what}" for what in ("solicitation", "advertisement"))
MEND = f"""
for tables in iptables ip6tables; do
    command -v $tables >/dev/null || continue
    for chain in INPUT OUTPUT; do
        while $tables -w -D $chain -j {CHAIN}; do :; done
    done
    $tables -w -F {CHAIN}; $tables -w -X {CHAIN}
    $tables -w -S {CHAIN} && left="$left $tables"
done >/dev/null 2>&1
tc qdisc show 2>/dev/null | awk '$3 == "{HANDLE}" {{print $5}}' | xargs -r -I DEVICE tc qdisc del dev DEVICE root
[ -z "$left" ] || {{ echo "the chain {CHAIN} stays in$left"; exit 1; }}
"""
# $0 is what netem is to do, the rest are the addresses of all nodes: packets to them leave by these devices.
DELAY = f"""
devices=$(for peer; do ip -o route get "$peer"; done | sed 's/.* dev \\([^ ]*\\).*/\\1/' | grep -vx lo | sort -u)
for device in $devices; do
    tc qdisc add dev "$device" root handle {HANDLE} netem $0 || exit
done
"""


def of_peer(peer: str) -> list[str]:
    """Packets from and to an address."""
    return [f"-s {peer}", f"-d {peer}"]


def of_connections(peer: str, own: int, theirs: int) -> list[str]:
    """Packets of connections from an address to the port ``own``, and from here to its port ``theirs``."""
    return [
        *(f"-s {peer} -p tcp {side}" for side in (f"--dport {own}", f"--sport {theirs}")),
        *(f"-d {peer} -p tcp {side}" for side in (f"--sport {own}", f"--dport {theirs}")),
    ]


def fits(match: str, family: int) -> bool:
    """Whether the addresses in it, if there are any, are of this version of IP."""
    words = match.split()
    addresses = [address for side, address in itertools.pairwise(words) if side in ("-s", "-d")]
    return all((":" in address) == (family == 6) for address in addresses)


def rules(matches: Iterable[str], target: str, chains: Iterable[str], ssh: tuple[str, str] | None, family: int) -> str:
    """Input of iptables-restore. Whoever comes by ``ssh``, its address and the port that it comes to, is left alone."""
    spared = ["-i lo", "-o lo", *(NEIGHBOURS if family == 6 else ())]
    if ssh:
        peer, port = ssh
        spared += [f"-s {peer} -p tcp --dport {port}", f"-d {peer} -p tcp --sport {port}"]
    lines = [f"{match} -j RETURN" for match in spared if fits(match, family)]
    lines += [f"{match} -j {target}".strip() for match in matches if fits(match, family)]
    return "\n".join(
        [
            *("*filter", f":{CHAIN} - [0:0]"),
            *(f"-A {CHAIN} {line}" for line in lines),
            *(f"-I {chain} -j {CHAIN}" for chain in chains),
            *("COMMIT", ""),
        ]
    )


class Network:
    """A network. A command on the machine that begins with ``enter`` is in it; ``peers`` are all nodes' addresses."""

    def __init__(self, machine: Machine, enter: Sequence[str], peers: Sequence[str]) -> None:
        self._machine = machine
        self._enter = enter
        self._peers = peers
        self._late: subprocess.Popen[str] | None = None
        """What makes packets late where the kernel cannot."""

    def prepare(self) -> None:
        """Whatever has to be done before the first packet is lost."""

    def drop(self, *matches: str) -> None:
        """Lose the packets that match, all of them if that is empty.

        :raises CannotHappen: the machine lacks something.
        """
        self.prepare()
        self._apply(matches, "DROP", "INPUT", "OUTPUT")

    def delay(self, delay: float, jitter: float, loss: float) -> None:
        """Let every packet that leaves be late by so many milliseconds, more or less; ``loss`` percent are lost.

        By the kernel's netem, or else by a program of its own.

        :raises CannotHappen: the machine has neither.
        """
        self.prepare()
        try:
            self._needs("tc")
            self.checked("sh", "-c", DELAY, f"delay {delay}ms {jitter}ms loss {loss}%", *self._peers)
        except CannotHappen as reason:
            try:
                self._delay_by_program(str(delay), str(jitter), str(loss))
            except CannotHappen as other:
                raise CannotHappen(f"{reason}; {other}") from other

    def mend(self) -> None:
        """As if nothing had been done.

        :raises DidNotHappen: something stays.
        """
        ran = self._run("sh", "-c", MEND)
        if ran.returncode != 0:
            raise DidNotHappen(f"the network is not mended: {self._complaint(ran)}")
        if self._late:
            self._late.communicate()  # the end of its input is the end of it
            self._late = None

    def checked(self, *argv: str, text: str = "") -> None:
        """Run a command of the machine in the network.

        :raises CannotHappen: it failed.
        """
        ran = self._run(*argv, text=text)
        if ran.returncode != 0:
            raise CannotHappen(self._complaint(ran))

    def _run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return self._machine.run(*self._enter, *argv, text=text)

    def _complaint(self, ran: subprocess.CompletedProcess[str]) -> str:
        return f"{self._machine.name}: {(ran.stderr or ran.stdout).strip() or f'exit code {ran.returncode}'}"

    def _needs(self, program: str) -> None:
        if self._machine.run("sh", "-c", f"command -v {program}").returncode != 0:
            raise CannotHappen(f"{self._machine.name} has no {program}: apt-get install {PACKAGES[program]}")

    def _apply(self, matches: Sequence[str], target: str, *chains: str) -> None:
        for family in sorted({6 if ":" in peer else 4 for peer in self._peers}):
            program = "iptables-restore" if family == 4 else "ip6tables-restore"
            self._needs(program)
            self.checked(program, "-w", "--noflush", text=rules(matches, target, chains, self._machine.ssh, family))

    def _delay_by_program(self, *arguments: str) -> None:
        """late_packets.py, until the network is mended."""
        program = Path(__file__).with_name("late_packets.py").read_text(encoding="utf-8")
        started = self._late = subprocess.Popen(
            self._machine.command(*self._enter, self._machine.python, "-c", program, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert started.stdout and started.stderr
        if not started.stdout.readline():
            raise CannotHappen(f"late_packets.py: {(started.stderr.read().splitlines() or ['it does not start'])[-1]}")
        self._apply([""], "NFQUEUE --queue-num 1 --queue-bypass", "OUTPUT")


class NoNetwork(Network):
    """One that is not the cluster's alone, and is left alone; ``reason`` says why."""

    def __init__(self, machine: Machine, reason: str) -> None:
        super().__init__(machine, (), ())
        self._reason = reason

    def prepare(self) -> None:
        """Nothing is done to it.

        :raises CannotHappen: always.
        """
        raise CannotHappen(self._reason)

    def mend(self) -> None:
        """Nothing was done to it."""
