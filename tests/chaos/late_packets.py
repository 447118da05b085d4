# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""Makes packets late, and loses some, where the kernel has no netem: ``late_packets.py DELAY JITTER LOSS``.

Milliseconds, milliseconds, percent. Takes what an iptables rule gives to its queue (``-j NFQUEUE --queue-num 1``) in
the network that it is started in. Needs NetfilterQueue from PyPI, which is built with libnetfilter-queue-dev. Writes a
line when it listens, and ends when its standard input does, so it cannot outlive who started it.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import select
import sys
import time

import netfilterqueue

QUEUE = 1
LENGTH = 10_000
"""Packets that may wait; what comes when it is full is lost, as with netem."""


def main(delay: float, jitter: float, loss: float) -> None:
    """Hold every packet for its time."""
    held: list[tuple[float, int, netfilterqueue.Packet]] = []
    count = itertools.count()

    def take(packet: netfilterqueue.Packet) -> None:
        if random.random() * 100 < loss:
            packet.drop()
            return
        due = time.monotonic() + max(0.0, random.uniform(delay - jitter, delay + jitter)) / 1000
        heapq.heappush(held, (due, next(count), packet))

    queue = netfilterqueue.NetfilterQueue()
    # Of a packet that is only let pass or not, nothing needs to be copied.
    queue.bind(QUEUE, take, max_len=LENGTH, mode=netfilterqueue.COPY_META)
    print("listening", flush=True)
    try:
        while True:
            patience = max(0.0, held[0][0] - time.monotonic()) if held else None
            ready = select.select([queue.get_fd(), sys.stdin], [], [], patience)[0]
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 1):
                break
            if queue.get_fd() in ready:
                queue.run(block=False)
            while held and held[0][0] <= time.monotonic():
                heapq.heappop(held)[2].accept()
    finally:
        queue.unbind()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:4]))
