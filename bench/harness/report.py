# SPDX-License-Identifier: MIT OR Apache-2.0
"""Turns results into tables, plots and the list of goals, and makes docs/performance.md of them and of its frame."""

import json
import os
import re
from statistics import median

from . import contenders as who
from . import images, medium, svg
from .programs import BENCH, ROOT, Failed
from .session import CACHED, COLD, SECTIONS, SIZES, TMPFS

FRAME = os.path.join(BENCH, "performance.md.in")
PAGE = os.path.join(ROOT, "docs", "performance.md")
PLOTS = os.path.join(ROOT, "docs", "performance")
RESULTS = os.path.join(PLOTS, "results.json")

CURVE_COLOURS = {who.ZERO_COPY: svg.COLOURS[who.LIMIT], who.WIRE: svg.COLOURS[who.OURS], who.OURS_FILE: "#1d4ed8",
                 who.CP: svg.COLOURS[who.PEER]}

MIB, GIB = 1 << 20, 1 << 30
MEMORY_GOAL = 8 * MIB


class Cell:
    """All contenders with one image in one place."""

    def __init__(self, runs, data):
        self.runs = {name: run for name, run in runs.items() if run["wall"]}
        self.failures = {name: run["failure"] for name, run in runs.items() if run["failure"]}
        self.data = data
        self.limits = {who.STREAM: self._best(who.ZERO_COPY, who.READ_WRITE),
                       who.FILE: self._best(who.LIMIT_FILE, who.LIMIT_SPLICE)}

    def _best(self, *names):
        there = [name for name in names if name in self.runs]
        return min(there, key=lambda name: median(self.runs[name]["wall"]), default=None)

    def ratio(self, name, kind, other=None):
        """The median of the ratios of the rounds; None if either is missing."""
        if name not in self.runs:
            return None
        other = other or self.limits[self.runs[name]["route"]]
        if other not in self.runs:
            return None
        return median(a / b for a, b in zip(self.runs[name][kind], self.runs[other][kind]))

    def left(self, name):
        """MiB of the page cache after its worst run."""
        return self.runs[name]["left"] / MIB if name in self.runs else None

    def peak(self, name):
        """MiB of memory in its worst run."""
        return self.runs[name]["peak"] / MIB if name in self.runs else None

    def seconds_of_cpu(self, name):
        return median(self.runs[name]["cpu"]) / 1e9 / (self.data / GIB)


class Report:
    def __init__(self, results):
        self.results = results
        self.images = results["images"]

    def cells(self, place):
        """Cells of the images of the table, by name."""
        runs = self.results["runs"].get(place, {})
        return {name: Cell(runs[name], self.images[name]["data"]) for name in self.images if name in runs}

    def curve(self, key):
        """Cells of a curve, by number."""
        return {int(point): Cell(runs, 1) for point, runs in self.results["runs"].get(key, {}).items()}

    # Goals

    @staticmethod
    def _goals():
        """A list of goals, and what adds one to it."""
        found = []

        def goal(what, measured, bound, least=False):
            if measured is None:
                found.append((what, None, bound, None))
            else:
                found.append((what, measured, bound, measured >= bound if least else measured <= bound))
        return found, goal

    def medium_goals(self):
        """As `goals`, of copies to the medium."""
        found, goal = self._goals()
        medium.goals(self.cells, goal)
        return found

    def goals(self):
        """(what, measured, bound, met or None) of each goal."""
        found, goal = self._goals()
        cached, ours = self.cells(CACHED), who.WIRE
        for name, wall, cpu in (("one", 1.15, 1.15), ("eight", 1.15, 1.15), ("many", 1.15, 1.2)):
            if name in cached:
                goal(f"{ours}, {name}: wall to the limit", cached[name].ratio(ours, "wall"), wall)
                goal(f"{ours}, {name}: CPU to the limit", cached[name].ratio(ours, "cpu"), cpu)
                for kind in ("wall", "cpu"):
                    goal(f"{who.CALLBACKS}, {name}: {kind} to the C loop",
                         cached[name].ratio(who.CALLBACKS, kind, who.LOOP), 1.1)
        for name, cell in cached.items():
            goal(f"{who.OURS_FILE}, {name}: wall to the limit", cell.ratio(who.OURS_FILE, "wall"), 1.1)
            goal(f"{who.OURS_FILE}, {name}: wall to cp", cell.ratio(who.OURS_FILE, "wall", who.CP), 1.0)
            for peer, times in ((who.VIRSH_UP, 4), (who.VIRSH_DOWN, 4), (who.NBD_UP, 2), (who.NBD_DOWN, 2)):
                if peer in cell.runs:
                    mine = ours
                    if name == images.ZEROS and cell.runs[peer]["detects"]:
                        mine = who.WIRE_DETECT
                    goal(f"{peer}, {name}: wall to {mine}", cell.ratio(peer, "wall", mine), times, True)
                    goal(f"{peer}, {name}: CPU to {mine}", cell.ratio(peer, "cpu", mine), 1, True)
            if name == images.ZEROS:
                goal(f"{who.WIRE_DETECT}, {name}: wall to the limit with it",
                     cell.ratio(who.WIRE_DETECT, "wall", who.LIMIT_DETECT), 1.15)
                goal(f"{who.FILE_DETECT}, {name}: wall to the limit with it",
                     cell.ratio(who.FILE_DETECT, "wall", who.LIMIT_FILE_DETECT), 1.1)
        for name, bound in ((ours, 4.2), (who.OURS_FILE, 4.1)):
            calls = self.results["traces"].get(name)
            goal(f"{name}: system calls of a section and its hole", calls and calls["calls"], bound)
        contests = self.results["contests"]
        goal("sparsestream_in_data: time to the same calls in C", contests["in-data"]["ratio"], 1.02)
        for name, contest in contests.items():
            if name.startswith("zeros"):
                goal(f"detection of {name}: speed to memcmp", 1 / contest["ratio"], 0.9, True)
        for name in (ours, who.OURS_FILE):
            times = {point: median(cell.runs[name]["wall"]) for point, cell in self.curve(SECTIONS).items()
                     if name in cell.runs}
            if len(times) > 1:
                last, before = sorted(times)[-1], sorted(times)[-2]
                goal(f"{name}: cost of a section, {last:,} of them to {before:,}",
                     times[last] / last / (times[before] / before), 1.2)
            times = [median(cell.runs[name]["wall"]) for cell in self.curve(SIZES).values() if name in cell.runs]
            if times:
                goal(f"{name}: time at 8 EiB to the median of all sizes", times[-1] / median(times), 1.2)
        peaks = [run["peak"] for place in self.results["runs"].values() for runs in place.values()
                 for run in runs.values() if run["group"] == who.OURS and "left" not in run]
        goal("ours: peak memory of any end, MiB", max(peaks, default=0) / MIB, MEMORY_GOAL / MIB)
        for name, cell in self.cells(COLD).items():
            for mine in (ours, who.OURS_FILE):
                ratio = cell.ratio(mine, "wall")
                goal(f"{mine}, {name}, cold: speed to the limit", ratio and 1 / ratio, 0.9, True)
        return found

    # Tables

    @staticmethod
    def _table(head, rows):
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

    @staticmethod
    def _name(name, group):
        return f"**{name}**" if group == who.OURS else name

    @staticmethod
    def _number(value, digits=2):
        return "-" if value is None else f"{value:.{digits}f}"

    def _cell_table(self, cell):
        rows = []
        for route in (who.STREAM, who.FILE):
            names = [name for name, run in cell.runs.items() if run["route"] == route]
            for name in sorted(names, key=lambda name: median(cell.runs[name]["wall"])):
                run = cell.runs[name]
                wall = [nanoseconds / 1e6 for nanoseconds in run["wall"]]
                mark = " (the limit)" if name == cell.limits[route] else ""
                rows.append([self._name(name, run["group"]) + mark, route,
                             f"{median(wall):.0f} ({min(wall):.0f}-{max(wall):.0f})",
                             self._number(cell.ratio(name, "wall")), self._number(cell.seconds_of_cpu(name)),
                             self._number(cell.ratio(name, "cpu")), f"{run['peak'] / MIB:.1f}",
                             f"{run['allocated'] / MIB:.0f}", str(len(wall))])
        for name, failure in cell.failures.items():
            rows.append([name, "", failure, "", "", "", "", "", ""])
        return self._table(["", "route", "wall, ms (least-most)", "to the limit", "CPU s/GiB", "to the limit",
                            "peak, MiB", "copy, MiB", "rounds"], rows)

    def _place_tables(self, place, plots):
        parts = []
        for name, cell in self.cells(place).items():
            parts.append(f"### {self.images[name]['title']}\n")
            if plots:
                parts.append(f"![Wall and CPU time of all contenders](performance/{name}.svg)\n")
            parts.append(self._cell_table(cell) + "\n")
        return "\n".join(parts) if parts else "Not run.\n"

    def _summary(self):
        cells = self.cells(CACHED)
        names = dict.fromkeys(name for cell in cells.values() for name in cell.runs)
        rows = []
        for name in names:
            group = next(cell.runs[name]["group"] for cell in cells.values() if name in cell.runs)
            rows.append([self._name(name, group)] +
                        [f"{self._number(cell.ratio(name, 'wall'))} / {self._number(cell.ratio(name, 'cpu'))}"
                         if name in cell.runs else "" for cell in cells.values()])
        return self._table(["wall / CPU to the limit", *cells], rows) + "\n"

    def _goal_table(self, goals):
        words = {True: "met", False: "**not met**", None: "not measured"}
        return self._table(["goal", "measured", "bound", ""],
                           [[what, self._number(measured), f"{bound:g}", words[met]]
                            for what, measured, bound, met in goals]) + "\n"

    def _medium_tables(self):
        """Wall, CPU, memory and what stays in the page cache, place by place."""
        parts = []
        for place in medium.PLACES:
            for name, cell in self.cells(place).items():
                rows = []
                for contender, run in sorted(cell.runs.items(), key=lambda item: median(item[1]["wall"])):
                    wall = [nanoseconds / 1e9 for nanoseconds in run["wall"]]
                    cpu = [nanoseconds / 1e9 for nanoseconds in run["cpu"]]
                    rows.append([self._name(contender, run["group"]),
                                 f"{median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f})",
                                 f"{median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f})",
                                 f"{cell.data / MIB / median(wall):.0f}", f"{run['peak'] / MIB:.1f}",
                                 f"{run['left'] / MIB:.1f}"])
                rows += [[contender, failure, "", "", "", ""] for contender, failure in cell.failures.items()]
                parts.append(f"### {self.images[name]['title']}, {place}\n")
                parts.append(self._table(["", "wall, s (least-most)", "CPU, s (least-most)", "MiB/s", "peak, MiB",
                                          "page cache left, MiB"], rows) + "\n")
        return "\n".join(parts) if parts else "Not run.\n"

    def _calls(self):
        rows = []
        for name, traced in sorted(self.results["traces"].items(), key=lambda item: (item[1]["route"], item[1]["calls"])):
            most = ", ".join(f"{call} {count:g}" for call, count in list(traced["by name"].items())[:6])
            rows.append([self._name(name, traced["group"]), traced["route"], self._number(traced["calls"]), most,
                         self._number(traced["copied"]), self._number(traced["big calls"]),
                         self._number(traced["big copied"])])
        return self._table(["", "route", "calls of a section", "of these", "copies of a byte",
                            "big section: calls of a MiB", "copies of a byte"], rows) + "\n"

    def _contests(self):
        rows = []
        for name, contest in self.results["contests"].items():
            if contest["unit"] == "ps/byte":
                row = [f"{1000 / contest[side]:.0f} GB/s" for side in ("ours", "limit")]
            else:
                row = [f"{contest[side]:.0f} {contest['unit']}" for side in ("ours", "limit")]
            rows.append([name, *row, f"{contest['ratio']:.3f}"])
        return self._table(["", "ours", "C", "time, ours to C"], rows) + "\n"

    def _curve_table(self, key, head, words):
        cells = self.curve(key)
        names = dict.fromkeys(name for cell in cells.values() for name in cell.runs)
        rows = [[self._name(name, who.OURS if name.startswith("ours") else "")] +
                [f"{median(cell.runs[name]['wall']) / 1e6:.1f}" if name in cell.runs else "" for cell in cells.values()]
                for name in names]
        return self._table([f"wall, ms; {head}", *(words(point) for point in cells)], rows) + "\n"

    def _machine(self):
        machine = self.results["machine"]
        lines = [f"- {machine.get('processor', 'unknown processor')}, {machine['cores']} cores, "
                 f"{machine['memory'] / GIB:.0f} GiB of memory free, Linux {machine['kernel']}.",
                 f"- {self.results['rounds']} rounds, fewer for slow peers (see the last column); the whole run took "
                 f"{self.results.get('seconds', 0)} s."]
        lines.append(f"- Files in cache are on {machine.get('cached on', 'the disk')}, cold ones on the disk: "
                     f"{machine.get('cold on', 'not run')}.")
        lines += [f"- {words}" for words in machine["versions"].values()]
        lines.append(f"- Skipped: {len(self.results['skipped'])}.")
        lines += [f"  - {what}: {reason}" for what, reason in self.results["skipped"]]
        return "\n".join(lines) + "\n"

    def blocks(self):
        """What stands between the marks of the page, by name."""
        return {
            "machine": self._machine(),
            "summary": self._summary(),
            "goals": self._goal_table(self.goals()),
            "medium": self._medium_tables(),
            "medium_goals": self._goal_table(self.medium_goals()),
            "cached": self._place_tables(CACHED, True),
            "tmpfs": self._place_tables(TMPFS, False),
            "cold": self._place_tables(COLD, False),
            "calls": self._calls(),
            "contests": self._contests(),
            "sections": self._curve_table(SECTIONS, "sections", lambda count: f"{count:,}"),
            "sizes": self._curve_table(SIZES, "apparent size", size_words),
        }

    # Plots

    def plots(self):
        found = {}
        for name, cell in self.cells(CACHED).items():
            rows = [(contender, run["group"], [cell.ratio(contender, "wall"), cell.ratio(contender, "cpu")])
                    for contender, run in cell.runs.items()]
            rows = sorted((row for row in rows if None not in row[2]), key=lambda row: row[2][0])
            if rows:
                found[f"{name}.svg"] = svg.bars(self.images[name]["title"], rows, ("wall time", "CPU time"))
        for key, title, axis, words in (
                (SECTIONS, "Cost against the number of sections of 4 KiB (tmpfs)", "sections", lambda x: f"{x:,}"),
                (SIZES, "Cost against the apparent size, 64 MiB of data (tmpfs)", "apparent size", size_words)):
            lines = {}
            for point, cell in sorted(self.curve(key).items()):
                for name, run in cell.runs.items():
                    lines.setdefault(name, []).append((point, median(run["wall"]) / 1e6))
            if lines:
                drawn = [(name, CURVE_COLOURS[name], line) for name, line in lines.items()]
                found[f"{key}.svg"] = svg.curves(title, drawn, axis, "wall, ms", words)
        return found


def size_words(size):
    size += size & 1
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            return f"{size:g} {unit}"
        size /= 1024
    return f"{size:g} EiB"


MARK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)


def page(text, results):
    """The frame with its blocks filled in."""
    blocks = Report(results).blocks()
    missing = set(blocks) - {name for _, name, _ in MARK.findall(text)}
    if missing:
        raise Failed(f"{FRAME} has no place for {', '.join(sorted(missing))}")
    return MARK.sub(lambda found: f"{found[1]}\n{blocks[found[2]]}\n{found[3]}", text)


def files(results):
    """All files that results make: path and content."""
    with open(FRAME, encoding="utf-8") as file:
        found = {PAGE: page(file.read(), results)}
    for name, plot in Report(results).plots().items():
        found[os.path.join(PLOTS, name)] = plot
    found[RESULTS] = json.dumps(results, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    return found


def merged(part):
    """What docs/ has, with the runs of one part instead of those that it has of it."""
    with open(RESULTS, encoding="utf-8") as file:
        results = json.load(file)
    for key in ("images", "runs", "traces", "contests"):
        results[key].update(part[key])
    results.update({"medium": part["medium"]} if "medium" in part else {})
    return results


def write(results):
    made = files(results)
    os.makedirs(PLOTS, exist_ok=True)
    for name in os.listdir(PLOTS):
        if name.endswith(".svg") and os.path.join(PLOTS, name) not in made:
            os.unlink(os.path.join(PLOTS, name))
    for path, content in made.items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
    return made


def stale():
    """Files that are not what the results make of them; the page itself where it has none."""
    if not os.path.exists(RESULTS):
        return [os.path.relpath(PAGE, ROOT)] if os.path.exists(PAGE) else []
    with open(RESULTS, encoding="utf-8") as file:
        made = files(json.load(file))
    found = []
    for path, content in made.items():
        try:
            with open(path, encoding="utf-8") as file:
                fresh = file.read() == content
        except FileNotFoundError:
            fresh = False
        if not fresh:
            found.append(os.path.relpath(path, ROOT))
    return found
