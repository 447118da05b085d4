# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Two Docker machines on this one: network namespaces, each with an address, a Docker engine and an SSH server.

They share the kernel and the file system with this machine, and nothing of their networks: what one reaches of the
other, it reaches over the wire between them. Everything is ended and removed with the ``with`` block.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "citus-ha-test"
NETWORK = "10.77.41"


@dataclass(frozen=True)
class Machine:
    """A namespace with its engine: ``name``, ``address`` on the wire, and the engine's ``socket``."""

    name: str
    address: str
    socket: Path

    def docker(self, *arguments: str, stdin: subprocess.Popen[bytes] | None = None) -> str:
        """Standard output of the docker client on this machine's engine."""
        return subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *arguments],
            stdin=stdin.stdout if stdin else subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=600,
        ).stdout.decode()


def run(*argv: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def process(argv: list[str], log: Path, end: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block runs; ``end`` asks it to go."""
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as started,
    ):
        try:
            yield started
        finally:
            started.send_signal(end)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_until(look: list[str], seconds: float, log: Path) -> None:
    """Wait until a command succeeds."""
    deadline = time.monotonic() + seconds
    while subprocess.run(look, capture_output=True, check=False, timeout=30).returncode != 0:
        assert time.monotonic() < deadline, f"{look} failed for {seconds} seconds:\n{log.read_text()[-3000:]}"
        time.sleep(0.3)


def ssh_files(folder: Path) -> None:
    """A key pair, and an ``ssh`` first in the PATH that uses it: for Ansible and for the Docker client alike."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
    host_key = (folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
    (folder / "known_hosts").write_text(f"{NETWORK}.* {host_key}\n")
    (folder / "config").write_text(
        f"IdentityFile {folder}/key\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {folder}/known_hosts\nStrictHostKeyChecking yes\n"
    )
    wrapper = folder / "bin/ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)


@contextmanager
def machine(folder: Path, number: int) -> Iterator[Machine]:
    """One machine on the bridge."""
    name = f"citus-ha-test-m{number}"
    made = Machine(name, f"{NETWORK}.{10 + number}", folder / f"{name}.sock")
    data = folder / f"{name}.data"
    (folder / f"{name}.sshd").write_text(
        f"Port 22\nListenAddress {made.address}\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/key.pub\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n"
        f"PidFile {folder}/{name}.sshd.pid\n"
        f"SetEnv DOCKER_HOST=unix://{made.socket}\n"
    )
    with ExitStack() as stack:
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "link", "add", f"cht{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        # Before the namespace, which goes when the last process in it has ended.
        stack.callback(run, "ip", "link", "delete", f"cht{number}")
        run("ip", "link", "set", f"cht{number}", "master", BRIDGE, "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["link", "set", "eth0", "up"],
            ["addr", "add", f"{made.address}/24", "dev", "eth0"],
        ):
            run("ip", "-n", name, *command)
        # Not `ip netns exec`: its own /sys has no control groups, without which the engine does not start. The engine's
        # mounts end with it.
        inside = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount"]
        engine = [
            *(*inside, "dockerd", "--data-root", str(data), "--exec-root", str(folder / f"{name}.exec")),
            *(
                "--host",
                f"unix://{made.socket}",
                "--pidfile",
                str(folder / f"{name}.pid"),
                "--bridge",
                "none",
                "--iptables=false",
            ),
        ]
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        stack.enter_context(process(engine, folder / f"{name}.dockerd.log"))
        Path("/run/sshd").mkdir(exist_ok=True)
        # In a process namespace, so that the sessions which Ansible keeps open end with the server.
        alone = [*inside, "--pid", "--fork", "--kill-child", "--mount-proc"]
        server = [*alone, "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / f"{name}.sshd")]
        stack.enter_context(process(server, folder / f"{name}.sshd.log", signal.SIGKILL))
        wait_until(["docker", "-H", f"unix://{made.socket}", "version"], 60, folder / f"{name}.dockerd.log")
        wait_until(
            [str(folder / "bin/ssh"), "-o", "BatchMode=yes", f"root@{made.address}", "docker", "version"],
            30,
            folder / f"{name}.sshd.log",
        )
        yield made


@contextmanager
def two_machines(folder: Path, image: str) -> Iterator[list[Machine]]:
    """Two machines that have ``image``; ``PATH`` finds the ``ssh`` that reaches them."""
    ssh_files(folder)
    path = os.environ["PATH"]
    with ExitStack() as stack:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(run, "ip", "link", "delete", BRIDGE)
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # Docker on this machine forwards nothing that it does not know, and that may include what crosses a bridge.
        pass_on = ("FORWARD", "--in-interface", BRIDGE, "--out-interface", BRIDGE, "--jump", "ACCEPT")
        run("iptables", "--insert", *pass_on)
        stack.callback(run, "iptables", "--delete", *pass_on)
        machines = [stack.enter_context(machine(folder, number)) for number in (1, 2)]
        for each in machines:
            with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
                each.docker("load", stdin=saved)
        os.environ["PATH"] = f"{folder}/bin:{path}"
        stack.callback(os.environ.__setitem__, "PATH", path)
        yield machines
