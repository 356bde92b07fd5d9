# SPDX-License-Identifier: MIT OR Apache-2.0
"""The table of docs/nbd.md, from the results of bench/nbd."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/performance/nbd.json"
PAGE = ROOT / "docs/nbd.md"
BEGIN, END = "<!-- made by bench/nbd -->\n", "<!-- end -->\n"

# The most wall time, against the best setting of nbdcopy. A row with latency in which the processors are not busy has 0.9.
BOUNDS = {"1 of 64 takes 300 ms": 1.1, "comb, 2 ms": 1 / 3, "empty 1 TiB, 2 ms": 1 / 5}
BUSY = 0.9
# The most memory of this library's command, in MiB: --memory, and a constant.
PEAK = 64 + 12


def middle(runs):
    """The median of each figure, but of user CPU the mean: the kernel counts it in ticks, which only a sum evens out."""
    figures = [statistics.median(column) for column in zip(*runs)]
    figures[1] = statistics.mean(run[1] for run in runs)
    return figures


def bound(row, best, cores):
    wall, _, cpu, servers, _ = best
    if row in BOUNDS:
        return BOUNDS[row]
    return 0.9 if row.endswith(" ms") and cpu + servers < BUSY * cores * wall else 1.0


def ratio(value, other, most):
    # The kernel may have counted no tick of user CPU.
    share = value / other if other > 0 else float("inf")
    return f"{share:.2f} (at most {most:.2f}{'' if value <= most * other else ': **not met**'})"


def lines(results):
    for row, tools in results["rows"].items():
        of = {tool: middle(runs) for tool, runs in tools.items()}
        best = min((of[tool] for tool in of if tool.startswith("nbdcopy")), key=lambda values: values[0])
        for tool, (wall, user, cpu, servers, peak) in of.items():
            walls, users = "", ""
            if tool == "ours":
                walls = ratio(wall, best[0], bound(row, best, results["cores"]))
                users = ratio(user, best[1], 1)
                peak = max(run[-1] for run in tools[tool])
            over = ": **not met**" if tool == "ours" and peak > PEAK else ""
            yield (f"| {row} | {tool} | {wall:.2f} | {walls} | {user:.3f} | {users} | {cpu:.2f} | {servers:.2f} "
                   f"| {peak:.0f}{over} |")


def table(results):
    head = ("| row | tool | wall, s | to nbdcopy's best | user, s | to that of nbdcopy | CPU, s | servers' CPU, s | peak, MiB |\n"
            "|---|---|---|---|---|---|---|---|---|\n")
    return head + "".join(line + "\n" for line in lines(results))


def page():
    """The page with the table that the results make."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table(results) + "\n" + END + rest.split(END)[1]


def write():
    PAGE.write_text(page(), encoding="utf-8")


def stale():
    """The page, if it is not what the results make of it."""
    return [] if PAGE.read_text(encoding="utf-8") == page() else [str(PAGE.relative_to(ROOT))]
