# SPDX-License-Identifier: MIT OR Apache-2.0
"""Two kinds of plots as SVG."""

import math
from xml.sax.saxutils import escape

COLOURS = {"limit": "#6b7280", "ours": "#0f766e", "peer": "#b45309"}
INK, GRID, PAPER = "#1f2937", "#d1d5db", "#ffffff"
FONT = "font-family='sans-serif' font-size='12'"


class Drawing:
    def __init__(self, width, height, title):
        self._parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
            f"viewBox='0 0 {width} {height}' role='img' aria-label='{escape(title, {chr(39): '&#39;'})}'>",
            f"<rect width='{width}' height='{height}' fill='{PAPER}'/>",
        ]
        self.text(12, 20, title, weight="bold")

    def text(self, x, y, words, anchor="start", weight="normal", colour=INK):
        self._parts.append(f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-weight='{weight}' fill='{colour}' "
                           f"text-anchor='{anchor}'>{escape(words)}</text>")

    def bar(self, x, y, width, height, colour, opacity=1.0):
        self._parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 1):.1f}' height='{height:.1f}' "
                           f"fill='{colour}' fill-opacity='{opacity}'/>")

    def line(self, points, colour, width=1.0, dash=""):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f" stroke-dasharray='{dash}'" if dash else ""
        self._parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' "
                           f"stroke-width='{width}'{dashes}/>")

    def dot(self, x, y, colour):
        self._parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>")

    def __str__(self):
        return "\n".join([*self._parts, "</svg>", ""])


def ticks(low, high):
    """1, 2 and 5 times the powers of ten."""
    found = []
    power = math.floor(math.log10(low))
    while 10 ** power <= high:
        found += [step * 10 ** power for step in (1, 2, 5) if low <= step * 10 ** power <= high]
        power += 1
    return found


def bars(title, rows, units):
    """Rows of (name, group, [value, value]) on a logarithmic scale; units name the two values."""
    left, right, top, pitch = 210, 70, 64, 34
    width, height = 820, top + pitch * len(rows) + 30
    drawing = Drawing(width, height, title)
    values = [value for _, _, both in rows for value in both]
    low, high = min(0.5, *values) * 0.9, max(2, *values) * 1.1
    span = math.log10(high / low)

    def place(value):
        return left + (width - left - right) * math.log10(value / low) / span

    drawing.text(left, 42, f"upper bar: {units[0]}; lower, paler bar: {units[1]}; 1 is the best hand-written C")
    for tick in ticks(low, high):
        drawing.line([(place(tick), top - 6), (place(tick), height - 24)], GRID, dash="" if tick == 1 else "2 3")
        drawing.text(place(tick), height - 8, f"{tick:g}", anchor="middle")
    for row, (name, group, both) in enumerate(rows):
        y = top + pitch * row
        drawing.text(left - 8, y + 16, name, anchor="end", weight="bold" if group == "ours" else "normal")
        for number, value in enumerate(both):
            x = min(place(1), place(value))
            drawing.bar(x, y + 12 * number, abs(place(value) - place(1)), 11, COLOURS[group], 0.5 if number else 1.0)
            drawing.text(max(place(1), place(value)) + 4, y + 10 + 12 * number, f"{value:.2f}")
    drawing.line([(place(1), top - 6), (place(1), height - 24)], INK)
    return str(drawing)


def curves(title, lines, x_name, y_name, x_words):
    """Lines of (name, colour, [(x, y), ...]) on logarithmic scales; x_words names a place on the x axis."""
    left, right, top, bottom = 70, 220, 40, 50
    width, height = 820, 420
    drawing = Drawing(width, height, title)
    points = [point for _, _, line in lines for point in line]
    xs = sorted({x for x, _ in points})
    # Whole powers of ten, so that noise does not fill the picture.
    low = 10 ** math.floor(math.log10(min(y for _, y in points)))
    high = 10 ** math.ceil(math.log10(max(y for _, y in points)))

    def place_x(x):
        return left + (width - left - right) * math.log(x / xs[0]) / (math.log(xs[-1] / xs[0]) or 1)

    def place_y(y):
        return height - bottom - (height - top - bottom) * math.log(y / low) / math.log(high / low)

    for tick in ticks(low, high):
        drawing.line([(left, place_y(tick)), (width - right, place_y(tick))], GRID)
        drawing.text(left - 6, place_y(tick) + 4, f"{tick:g}", anchor="end")
    for x in xs:
        drawing.line([(place_x(x), top), (place_x(x), height - bottom)], GRID, dash="2 3")
        drawing.text(place_x(x), height - bottom + 16, x_words(x), anchor="middle")
    drawing.text((left + width - right) / 2, height - 10, x_name, anchor="middle")
    drawing.text(12, top - 4, y_name)
    for number, (name, colour, line) in enumerate(lines):
        drawing.line([(place_x(x), place_y(y)) for x, y in line], colour, 2)
        for x, y in line:
            drawing.dot(place_x(x), place_y(y), colour)
        drawing.bar(width - right + 16, top + 20 * number, 12, 12, colour)
        drawing.text(width - right + 34, top + 11 + 20 * number, name)
    return str(drawing)
