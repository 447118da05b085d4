# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The page about a run: a table with the window of each fault, and a timeline to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from checker import Window
from faults import Happened
from ledger import Entry, Outcome

WIDTH, HEIGHT, LEFT, TOP = 1200, 260, 50, 90


@dataclass(frozen=True)
class Row:
    """One fault and what clients noticed of it."""

    fault: Happened
    window: Window


def timeline(entries: Sequence[Entry], faults: Sequence[Happened]) -> str:
    """SVG: acknowledged and not acknowledged writes in each second, with the faults as bands."""
    start = min(entry.begun for entry in entries)
    end = max(max(entry.ended for entry in entries), max((fault.well for fault in faults), default=start))
    acknowledged: Counter[int] = Counter()
    troubled: Counter[int] = Counter()
    for entry in entries:
        (acknowledged if entry.outcome is Outcome.OK else troubled)[int(entry.ended - start)] += 1
    most = max([*acknowledged.values(), *troubled.values(), 1])
    seconds = max(end - start, 1)

    def x(at: float) -> float:
        return LEFT + (at - start) / seconds * (WIDTH - LEFT - 10)

    def y(count: float) -> float:
        return TOP + HEIGHT - count / most * HEIGHT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 40}"'
        ' font-family="sans-serif" font-size="10">',
        f'<rect width="{WIDTH}" height="{TOP + HEIGHT + 40}" fill="white"/>',
    ]
    for number, fault in enumerate(faults):
        left, right = x(fault.begun), x(fault.ended)
        parts.append(
            f'<rect x="{left:.1f}" y="{TOP}" width="{max(right - left, 1.5):.1f}" height="{HEIGHT}" fill="#f4c7c3">'
            f"<title>{escape(fault.name)} ({escape(', '.join(fault.nodes))})</title></rect>"
            f'<text x="{left:.1f}" y="{TOP - 4}" transform="rotate(-35 {left:.1f} {TOP - 4})">'
            f"{number + 1} {escape(fault.name)}</text>"
        )
    points = " ".join(f"{x(start + s):.1f},{y(acknowledged[s]):.1f}" for s in range(int(seconds) + 1))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#1a73e8" stroke-width="1"/>')
    parts += [
        f'<rect x="{x(start + s):.1f}" y="{y(count):.1f}" width="2" height="{TOP + HEIGHT - y(count):.1f}"'
        ' fill="#d93025"/>'
        for s, count in sorted(troubled.items())
    ]
    parts.append(f'<line x1="{LEFT}" y1="{TOP + HEIGHT}" x2="{WIDTH - 10}" y2="{TOP + HEIGHT}" stroke="black"/>')
    step = 60 if seconds <= 1800 else 600
    parts += [
        f'<text x="{x(start + s):.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">{s // 60} min</text>'
        for s in range(0, int(seconds) + 1, step)
    ]
    parts += [
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{most}/s</text>',
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 32}"><tspan fill="#1a73e8">acknowledged writes each second</tspan>'
        '<tspan dx="20" fill="#d93025">not acknowledged</tspan>'
        '<tspan dx="20" fill="#b0746e">band: the fault</tspan></text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def page(
    rows: Sequence[Row],
    facts: Sequence[tuple[str, str]],
    complaints: Sequence[str],
    left_out: Mapping[str, str],
    picture: str,
) -> str:
    """The report in Markdown. ``left_out`` says of each fault that did not happen why."""
    verdict = (
        "**Nothing was lost, nothing appeared, nobody had to help.**"
        if not complaints
        else f"**{len(complaints)} complaints:**\n\n" + "\n".join(f"- {line}" for line in complaints)
    )
    lines = [verdict, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += [
        "",
        f"![throughput and errors over time]({picture})",
        "",
        "| # | fault | node | longest stall | outage | errors | all well again after |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows, 1):
        fault, seen = row.fault, row.window
        lines.append(
            f"| {number} | `{fault.name}` | {', '.join(fault.nodes)} | {seen.longest:.1f} s | {seen.outage:.1f} s "
            f"| {seen.errors} | {fault.well - fault.ended:.0f} s |"
        )
    lines += ["", "By fault, the worst of its tries:", "", "| fault | tries | longest stall | outage | errors |"]
    lines.append("|---|---|---|---|---|")
    for name in sorted({row.fault.name for row in rows}):
        windows = [row.window for row in rows if row.fault.name == name]
        lines.append(
            f"| `{name}` | {len(windows)} | {max(w.longest for w in windows):.1f} s "
            f"| {max(w.outage for w in windows):.1f} s | {max(w.errors for w in windows)} |"
        )
    if left_out:
        lines += ["", "Left out:", ""]
        lines += [f"- `{name}`: {reason}" for name, reason in left_out.items()]
    return "\n".join(lines) + "\n"
