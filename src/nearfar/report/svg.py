"""Pictures as inline SVG: axes with round numbers, no script, colours from the page's own variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from nearfar.evaluation import Comparison
from nearfar.metrics.ranking import label
from nearfar.report.facts import MapPoint, Score, StepPoint, System

WIDTH = 760
COLOURS = 8
"""Classes c0..c7 are defined by the page, from Okabe and Ito's palette (2008), told apart by the colour-blind."""


def loss_curve(
    steps: Sequence[StepPoint],
    dev: Sequence[tuple[int, float]],
    best: int | None,
    metric: str,
    intervals: Sequence[tuple[int, float, float]] = (),
) -> str:
    """The loss of every step (faint), its running mean, and below it the dev score with the step that was kept.

    `intervals` (step, low, high of the difference to the first dev score) become whiskers about the height of that score.
    """
    left, right, top, height = 64, WIDTH - 16, 14, 190
    last = max([s.step for s in steps] + [d[0] for d in dev] + [1])
    losses = [s.loss for s in steps]
    low, high, ticks = _axis(min(losses), max(losses)) if losses else (0.0, 1.0, [0.0, 1.0])

    def x(step: float) -> float:
        return left + (right - left) * step / last

    def y(value: float) -> float:
        return top + height * (1 - (value - low) / (high - low))

    parts = [_grid(ticks, y, left, right)]
    raw = " ".join(f"{x(s.step):.1f},{y(s.loss):.1f}" for s in steps)
    parts.append(f'<polyline class="faint" points="{raw}"/>')
    smooth = _running_mean(losses)
    line = " ".join(f"{x(s.step):.1f},{y(v):.1f}" for s, v in zip(steps, smooth, strict=True))
    parts.append(f'<polyline class="line c0" points="{line}"/>')
    parts.append(_text(left, top + height + 34, "step" if not dev else "", "start"))
    parts.append(f'<text class="unit" x="{left}" y="{top - 3}">loss (nats per pair)</text>')
    bottom = top + height
    if dev:
        above, tall = bottom + 44, 110
        start = dev[0][1]
        heights = [v for _, v in dev] + [start + edge for _, *edges in intervals for edge in edges]
        floor, ceiling, marks = _axis(min(heights), max(heights))

        def y_dev(value: float) -> float:
            return above + tall * (1 - (value - floor) / (ceiling - floor))

        parts.append(_grid(marks, y_dev, left, right))
        parts.append(f'<text class="unit" x="{left}" y="{above - 5}">{escape(label(metric))} on the dev queries</text>')
        if intervals:
            parts.append(f'<path class="axis" stroke-dasharray="4 4" d="M{left} {y_dev(start):.1f}H{right}"/>')
        for step, low_edge, high_edge in intervals:
            parts.append(
                f'<path class="whisker" d="M{x(step):.1f} {y_dev(start + low_edge):.1f}V{y_dev(start + high_edge):.1f}"/>'
            )
        path = " ".join(f"{x(s):.1f},{y_dev(v):.1f}" for s, v in dev)
        parts.append(f'<polyline class="line c1" points="{path}"/>')
        parts += [f'<circle class="dot c1" cx="{x(s):.1f}" cy="{y_dev(v):.1f}" r="3"/>' for s, v in dev]
        for step, value in dev:
            if step == best:
                parts.append(f'<circle class="ring" cx="{x(step):.1f}" cy="{y_dev(value):.1f}" r="7"/>')
                anchor = "end" if x(step) > WIDTH / 2 else "start"
                shift = -12 if anchor == "end" else 12
                parts.append(_text(x(step) + shift, y_dev(value) + 16, f"kept: step {step:,}, {value:.3f}", anchor))
        bottom = above + tall
    for tick in _axis(0, last)[2]:
        if tick <= last:
            parts.append(_text(x(tick), bottom + 16, f"{tick:,.0f}", "middle"))
    parts.append(_text((left + right) / 2, bottom + 34, "step", "middle"))
    return _svg(bottom + 42, "Loss by step" + (", and the dev score below" if dev else ""), parts)


def score_bars(systems: Sequence[System]) -> str:
    """A group per metric, a bar per system from zero, with its interval as a whisker and its numbers printed."""
    metrics = list(dict.fromkeys(name for s in systems for name in s.scores))
    left, right, row = 150, WIDTH - 190, 22
    parts, top = [], 8
    for metric in metrics:
        parts.append(f'<text class="head" x="8" y="{top + 14}">{escape(label(metric))}</text>')
        top += 24
        for number, system in enumerate(systems):
            found = system.scores.get(metric)
            parts.append(_text(left - 8, top + 14, _cut(system.name, 20), "end"))
            if found is not None:
                scale = right - left
                middle = top + 9.5
                colour = number % COLOURS
                parts.append(
                    f'<rect class="fill c{colour}" x="{left}" y="{top + 2}" width="{found.mean * scale:.1f}" height="15"/>'
                )
                low, high = left + found.low * scale, left + found.high * scale
                parts.append(
                    f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>'
                )
                said = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
                parts.append(_text(right + 10, top + 14, said, "start"))
            top += row
        top += 8
    parts.append(f'<path class="axis" d="M{left} 8V{top - 4}"/>')
    return _svg(top, "Scores of every system with 95 % intervals", parts)


def difference_plot(differences: Sequence[Comparison]) -> str:
    """Each paired difference with its interval, against the line of no difference."""
    left, right, row, top = 260, WIDTH - 190, 26, 26
    edge = max([abs(v) for d in differences for v in (d.low, d.high)] + [1e-6])
    low, high, ticks = _axis(
        min(0.0, -0.1 * edge, *(d.low for d in differences)), max(0.0, 0.1 * edge, *(d.high for d in differences))
    )

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    bottom = top + row * len(differences)
    parts = [f'<path class="grid" d="M{x(t):.1f} {top}V{bottom}"/>' for t in ticks]
    parts += [_text(x(t), bottom + 16, f"{t:+.2g}" if t else "0", "middle") for t in ticks]
    parts.append(f'<path class="axis" d="M{x(0):.1f} {top - 6}V{bottom}"/>')
    parts.append(f'<text class="unit" x="{x(0) + 6:.1f}" y="{top - 10}">better &#8594;</text>')
    for number, d in enumerate(differences):
        y = top + row * number + row / 2
        sure = "c2" if d.low > 0 else "c5" if d.high < 0 else "c7"
        parts.append(_text(left - 10, y + 4, _cut(f"{d.a} vs {d.b}, {label(d.metric)}", 42), "end"))
        parts.append(f'<path class="line {sure}" d="M{x(d.low):.1f} {y}H{x(d.high):.1f}"/>')
        parts.append(f'<circle class="dot {sure}" cx="{x(d.difference):.1f}" cy="{y}" r="5"/>')
        p = said_p(d.p)
        parts.append(_text(right + 10, y + 4, f"{d.difference:+.3f}, p {p if p[0] == '<' else f'= {p}'}", "start"))
    return _svg(bottom + 26, "Paired differences with 95 % intervals", parts)


def overlap_bar(overlap: Score, neighbours: int) -> str:
    """How many of a text's nearest neighbours stayed, of all of them, with the interval as a whisker."""
    left, right, top = 150, WIDTH - 190, 8
    scale = right - left
    low, high, middle = left + overlap.low * scale, left + overlap.high * scale, top + 9.5
    parts = [
        f'<rect class="frame" x="{left}" y="{top + 2}" width="{scale}" height="15"/>',
        f'<rect class="fill c0" x="{left}" y="{top + 2}" width="{overlap.mean * scale:.1f}" height="15"/>',
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>',
        _text(left - 8, top + 14, "neighbours kept", "end"),
        _text(right + 10, top + 14, f"{overlap.mean * neighbours:.1f} of {neighbours}", "start"),
    ]
    return _svg(top + 30, "Nearest neighbours kept outside the target domain, with a 95 % interval", parts)


def said_p(p: float) -> str:
    """A p-value as it is printed."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def scatter(points: Sequence[MapPoint]) -> str:
    """Texts on the plane, coloured by group (the largest groups; the rest are grey), the text of each on hover."""
    height, margin = 520, 14
    counts: dict[str, int] = {}
    for point in points:
        counts[point.group] = counts.get(point.group, 0) + 1
    groups = sorted(counts, key=lambda g: (-counts[g], g))[: COLOURS - 1]
    xs, ys = [p.x for p in points], [p.y for p in points]
    wide, tall = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    parts = [f'<rect class="frame" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}"/>']
    # the grey ones first, so that they lie below
    for point in sorted(points, key=lambda p: p.group in groups):
        colour = f"c{groups.index(point.group)}" if point.group in groups else "c7 rest"
        x = margin + (WIDTH - 2 * margin) * (point.x - min(xs)) / wide
        y = margin + (height - 2 * margin) * (1 - (point.y - min(ys)) / tall)
        said = escape(_cut(f"{point.group}: {point.text}", 160))
        parts.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{said}</title></circle>')
    top = height + 20
    place = 8.0
    for number, group in enumerate(groups):
        name = _cut(group, 24)
        if place + 24 + 7.5 * len(name) > WIDTH:
            place, top = 8.0, top + 20
        parts.append(f'<circle class="dot c{number}" cx="{place + 5}" cy="{top - 4}" r="5"/>')
        parts.append(_text(place + 15, top, name, "start"))
        place += 34 + 7.5 * len(name)
    return _svg(top + 10, "Embedding map: texts by their two principal components", parts)


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """A range of round numbers around [low, high], and its ticks."""
    span = high - low or max(abs(high), 1.0) * 0.1
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    unit = next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= raw * 0.999)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    last = max(last, first + 1)
    return first * unit, last * unit, [n * unit for n in range(first, last + 1)]


def _running_mean(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // 20)
    found = []
    for number in range(len(values)):
        part = values[max(0, number - window) : number + window + 1]
        found.append(sum(part) / len(part))
    return found


def _grid(ticks: Sequence[float], y: Callable[[float], float], left: float, right: float) -> str:
    lines = [
        f'<path class="grid" d="M{left} {y(t):.1f}H{right}"/>{_text(left - 8, y(t) + 4, f"{t:.4g}", "end")}' for t in ticks
    ]
    return "".join(lines)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _svg(height: float, said: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )
