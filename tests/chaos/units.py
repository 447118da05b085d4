# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""A node that is a systemd unit of its machine, and that machine's network."""

from __future__ import annotations

from hosts import BUSY, BUSY_SECONDS, Host
from network import MEND, Network

DEAD_MAN = 600
"""Seconds, longer than any fault, after which a machine undoes by itself what this program did not undo."""
SWITCH = f"""
systemctl stop "$2.timer" 2>/dev/null
printf %s "$3" > "/run/$2.sh" || exit
systemd-run --quiet --collect --unit="$2" --on-active={DEAD_MAN} /bin/sh "/run/$2.sh" "$1"
"""
"""$2 names the dead man's switch, $3 is the script that it runs, with $1 for its own."""
SWITCH_OFF = """
systemctl stop "$2.timer" 2>/dev/null; rm -f "/run/$2.sh"
"""

# $1 is the unit. /run is forgotten when the machine starts anew.
KEPT_AWAY = """
file=/run/systemd/system/$1.d/citus_ha-chaos.conf
"""
KILL = f"""{KEPT_AWAY}
mkdir -p "${{file%/*}}" && printf '[Service]\\nRestart=no\\n' > "$file" && systemctl daemon-reload || exit
systemctl kill --signal=KILL "$1" || exit
for _try in $(seq 50); do
    systemctl is-active --quiet "$1" || exit 0
    sleep 0.1
done
echo "it is still there"; exit 1
"""
THAW = 'systemctl kill --signal=CONT "$1" 2>/dev/null; true'
START = f"""{KEPT_AWAY}
if [ -e "$file" ]; then
    rm "$file"; rmdir --ignore-fail-on-non-empty "${{file%/*}}"; systemctl daemon-reload
fi
systemctl start "$1"
"""
# Again and again, as a process may have been born meanwhile. T is stopped, Z dead.
FREEZE = """
for _try in $(seq 50); do
    systemctl kill --signal=STOP "$1" || exit
    states=$(grep -ls "/$1\\$" /proc/[0-9]*/cgroup | sed s/cgroup/stat/ | xargs -r cut -d ' ' -f 3 2>/dev/null)
    [ -n "$states" ] && ! echo "$states" | grep -qv '[TZ]' && exit 0
    sleep 0.1
done
echo "some of its processes go on"; exit 1
"""
RUNNING = """
eval "$(systemctl show --property ActiveState,MainPID "$1")"
[ "$ActiveState" = active ] && ! grep -q '^State:.T' "/proc/$MainPID/status"
"""
MAKE_BUSY = f"""
for number in $(seq $((2 * $(nproc)))); do
    systemd-run --quiet --collect --unit="{BUSY}-$number" --property=RuntimeMaxSec={BUSY_SECONDS} \\
        /bin/sh -c 'while :; do :; done' || exit
done
"""
MAKE_IDLE = f"systemctl stop '{BUSY}-*'"


class MachineNetwork(Network):
    """A whole machine's. It is mended by itself when this program dies, and the way to it over SSH stays open."""

    switch = "citus_ha-chaos-network"

    def prepare(self) -> None:
        """Before the first packet is lost."""
        super().prepare()
        self.checked("sh", "-c", SWITCH, "sh", "", self.switch, MEND)

    def mend(self) -> None:
        """The switch is the last to go."""
        super().mend()
        self.checked("sh", "-c", SWITCH_OFF, "sh", "", self.switch)


class Unit(Host):
    """A unit, and of its machine only what the unit runs and the network."""

    needs = ("systemctl", "systemd-run", "runuser", "pgrep", "curl")

    _user = ""

    def within(self, *argv: str) -> list[str]:
        """As the unit's user."""
        if not self._user:
            shown = self.machine.run("systemctl", "show", "--property", "User", "--value", self._instance)
            self._user = shown.stdout.strip()
        return ["runuser", "-u", self._user or "nobody", "--", *argv]

    def running(self) -> bool:
        """A frozen unit is active, too."""
        return self.machine.run("sh", "-c", RUNNING, "sh", self._instance).returncode == 0

    def kill(self) -> None:
        """systemd would start it again after a second."""
        self._do_for_a_time("kill", KILL, undone_by=START)

    def start(self) -> None:
        """As it was: systemd starts it again."""
        self._undo("start", START)

    def freeze(self) -> None:
        """By SIGSTOP: systemd's freezer is not on every machine."""
        self._do_for_a_time("freeze", FREEZE, undone_by=THAW)

    def thaw(self) -> None:
        """Nothing happens to one that is not frozen."""
        self._undo("thaw", THAW)

    def mend_network(self) -> None:
        """It is the machine's, whether the unit runs or not."""
        self.network.mend()

    def make_busy(self) -> None:
        """systemd gives each unit as much as a server."""
        self._do("busy", MAKE_BUSY)

    def make_idle(self) -> None:
        """End the units."""
        self._do("idle", MAKE_IDLE)

    def _do_for_a_time(self, what: str, script: str, undone_by: str) -> None:
        self._do("dead man's switch", SWITCH, self._switch, undone_by)
        self._do(what, script)

    def _undo(self, what: str, script: str) -> None:
        self._do(what, script)
        self._do("dead man's switch", SWITCH_OFF, self._switch)

    @property
    def _switch(self) -> str:
        return f"{self._instance.removesuffix('.service')}-chaos"
