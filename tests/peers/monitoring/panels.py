"""Draws a Grafana dashboard's panels as one SVG from what Prometheus answers, where there is no Grafana to do it."""

import math
import re
from xml.sax.saxutils import escape

CELL = (40, 26)  # pixels of a cell of Grafana's grid, 24 of them in a row
PALETTE = ("#7eb26d", "#e0a72e", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642")
NAMED = {"blue": "#5794f2", "purple": "#b877d9", "yellow": "#f2cc0c", "green": "#73bf69", "orange": "#ff9830",
         "super-light-blue": "#c0d8ff", "red": "#f2495c", "dark-green": "#37872d"}
STEPS = {"bytes": (1024, " B", " KiB", " MiB", " GiB", " TiB"), "Bps": (1000, " B/s", " kB/s", " MB/s", " GB/s"),
         "short": (1000, "", " k", " M", " G")}
LETTER = 5.4  # pixels of a letter in a legend


def value_text(value, unit):
    """A value as Grafana would write it, about so."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "reqps":
        return f"{value:.3g}/s"
    if unit not in STEPS:
        return f"{value:.4g}"
    step, *suffixes = STEPS[unit]
    power = 0
    while abs(value) >= step and power + 1 < len(suffixes):
        value, power = value / step, power + 1
    return f"{value:.3g}{suffixes[power]}"


def name_of(target, labels):
    """A series' entry in the legend."""
    pattern = target["legendFormat"]
    if not pattern:
        return ""
    name = re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), pattern)
    return re.sub(r"\S*/", "", name) or "-"  # of a path its last part


def series_of(panel, ask):
    """(name, [(seconds, value)]) of every series of a panel, without what is not a number."""
    found = []
    for target in panel["targets"]:
        for answer in ask(target["expr"]):
            points = [(float(time), float(value)) for time, value in answer["values"]]
            points = [(time, value) for time, value in points if math.isfinite(value)]
            if points:
                found.append((name_of(target, answer["metric"]), points))
    return found


def text(x, y, words, size=10, color="#555", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(words)}</text>'


class Frame:
    """The inside of a panel: where time and value go."""

    def __init__(self, box, span, bounds):
        self.x, self.y, self.width, self.height = box
        self.begin, self.end = span
        self.low, self.high = bounds

    def across(self, time):
        return self.x + self.width * (time - self.begin) / max(self.end - self.begin, 1e-9)

    def up(self, value):
        return self.y + self.height * (self.high - value) / (self.high - self.low)


def bounds_of(series, defaults):
    values = [value for _, points in series for _, value in points]
    low = defaults.get("min", min(values))
    high = defaults.get("max", max(values))
    if low == high == 0:
        return 0, 1
    if low == high:  # zero at one end, the value in the middle
        return min(2 * low, 0), max(2 * high, 0)
    return low, high


def line(frame, points, color):
    """A series; of equal values in a row only the first and the last are drawn."""
    kept = [point for i, point in enumerate(points)
            if i in (0, len(points) - 1) or not points[i - 1][1] == point[1] == points[i + 1][1]]
    path = " ".join(f"{frame.across(time):.1f},{frame.up(value):.1f}" for time, value in kept)
    if len(kept) == 1:
        x, y = path.split(",")
        return f'<circle cx="{x}" cy="{y}" r="2" fill="{color}"/>'
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def time_series(panel, series, box, span):
    defaults = panel["fieldConfig"]["defaults"]
    x, y, width, height = box
    frame = Frame((x + 64, y + 26, width - 76, height - 58), span, bounds_of(series, defaults))
    parts = []
    for value in (frame.high, (frame.high + frame.low) / 2, frame.low):
        parts.append(f'<path d="M{frame.x:.0f} {frame.up(value):.0f}h{frame.width:.0f}" stroke="#e5e5e5"/>')
        parts.append(text(frame.x - 4, frame.up(value) + 3, value_text(value, defaults["unit"]), 9, anchor="end"))
    for i, (_, points) in enumerate(series):
        parts.append(line(frame, points, PALETTE[i % len(PALETTE)]))
    return parts + legend([name for name, _ in series], frame, y + height - 14)


def legend(names, frame, y):
    """As many entries as there is room for."""
    parts = []
    x = frame.x
    for i, name in enumerate(names):
        width = 22 + LETTER * len(name)
        if not name or x + width > frame.x + frame.width:
            break
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="8" height="3" fill="{PALETTE[i % len(PALETTE)]}"/>')
        parts.append(text(x + 11, y + 5, name, 9))
        x += width
    return parts


def stat(panel, series, box):
    x, y, width, height = box
    value = value_text(series[0][1][-1][1], panel["fieldConfig"]["defaults"]["unit"])
    return [text(x + width / 2, y + height / 2 + 18, value, 26, "#37872d", "middle")]


def timeline(panel, series, box, span):
    """What a series' value stood for, over time."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    x, y, width, height = box
    row = (height - 34) / len(series)
    parts = []
    for i, (name, points) in enumerate(series):
        frame = Frame((x + 150, y + 26 + i * row, width - 162, row - 4), span, (0, 1))
        parts.append(text(frame.x - 6, frame.y + row / 2, name[:22], 9, anchor="end"))
        ends = [time for time, _ in points[1:]] + [points[-1][0]]
        begin = points[0][0]
        for (_, value), end, following in zip(points, ends, points[1:] + [(None, None)]):
            if following[1] == value:
                continue
            stage = mapping["options"][str(int(value))]
            left, right = frame.across(begin), frame.across(end)
            parts.append(f'<rect x="{left:.1f}" y="{frame.y:.0f}" width="{max(right - left, 1):.1f}" '
                         f'height="{frame.height:.0f}" fill="{NAMED[stage["color"]]}"/>')
            if right - left > 6 * len(stage["text"]):
                parts.append(text((left + right) / 2, frame.y + frame.height / 2 + 3, stage["text"], 9, "#111", "middle"))
            begin = end
    return parts


def draw_panel(panel, ask, span):
    place = panel["gridPos"]
    x, y, width, height = place["x"] * CELL[0], place["y"] * CELL[1], place["w"] * CELL[0], place["h"] * CELL[1]
    if panel["type"] == "row":
        return [text(x + 6, y + 18, panel["title"], 14, "#111")]
    parts = [f'<rect x="{x + 2}" y="{y + 2}" width="{width - 4}" height="{height - 4}" rx="3" fill="#fff" stroke="#ddd"/>',
             text(x + 10, y + 17, panel["title"], 11, "#111")]
    series = series_of(panel, ask)
    box = (x + 2, y + 2, width - 4, height - 4)
    if not series:
        return [*parts, text(x + width / 2, y + height / 2, "no data", anchor="middle")]
    if panel["type"] == "stat":
        return parts + stat(panel, series, box)
    if panel["type"] == "state-timeline":
        return parts + timeline(panel, series, box, span)
    return parts + time_series(panel, series, box, span)


def draw(dashboard, ask, span):
    """The dashboard as SVG. ask(expr) gives Prometheus' answer to a range query over `span`, in seconds since 1970."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    parts = [part for panel in dashboard["panels"] for part in draw_panel(panel, ask, span)]
    width, height = 24 * CELL[0], bottom * CELL[1]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif">')
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#f7f7f7"/>', *parts, "</svg>", ""])
