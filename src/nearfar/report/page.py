"""A run as one self-contained HTML page: no script, nothing fetched, readable in light and dark, on paper and on a telephone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from nearfar.evaluation import Comparison
from nearfar.files import atomic_file
from nearfar.metrics.ranking import label
from nearfar.report.facts import Change, Report, Retained
from nearfar.report.grid import render_grid
from nearfar.report.svg import difference_plot, loss_curve, overlap_bar, said_p, scatter, score_bars
from nearfar.report.thumbnails import Thumbnails

MOST_TEXT = 600
"""Characters shown of a document."""

_STYLE = """
:root { --ink: #1d232b; --soft: #5b6673; --rule: #d9dee4; --paper: #fff; --panel: #f5f7f9; --good: #00664d; --bad: #a33c00;
  --c0: #0072b2; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7; --c4: #56b4e9; --c5: #d55e00; --c6: #b8a800; --c7: #8a949e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a2adb8; --rule: #38424d; --paper: #14181d; --panel: #1d232a;
  --good: #4fd1a5; --bad: #ff9a5c; --c0: #4aa8e0; --c6: #e5d53c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 860px; padding: 24px 20px 60px; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 4px; line-height: 1.2; } h2 { font-size: 1.15rem; margin: 40px 0 8px; }
p { margin: 6px 0; } .soft, figcaption { color: var(--soft); font-size: .92rem; }
.verdict { background: var(--panel); border-left: 5px solid var(--c0); padding: 12px 16px; margin: 18px 0; font-size: 1.05rem; } .verdict p { margin: 0 0 4px; }
figure { margin: 10px 0; overflow-x: auto; } svg { width: 100%; min-width: 560px; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } .wide { overflow-x: auto; }
.wide th, .wide td { white-space: nowrap; overflow-wrap: normal; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .88rem/1.45 ui-monospace, monospace; } pre { background: var(--panel); padding: 10px 14px; overflow-x: auto; }
.change { border-top: 1px solid var(--rule); padding: 10px 0; } .change b { font-size: 1.02rem; }
.rank { font-variant-numeric: tabular-nums; } .up { color: var(--good); } .down { color: var(--bad); }
blockquote { margin: 4px 0 4px 12px; padding-left: 10px; border-left: 2px solid var(--rule); color: var(--soft); font-size: .92rem; }
summary { cursor: pointer; }
.row { display: flex; gap: 14px; align-items: center; border-top: 1px solid var(--rule); padding: 8px 0; break-inside: avoid; }
.ask { flex: 0 0 170px; } .ask b { display: block; } .ask img { display: block; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; } .tile { width: 78px; font-size: .72rem; line-height: 1.25; color: var(--soft); }
.tile img, .ask img, .gone { width: 72px; height: 72px; border: 3px solid var(--rule); border-radius: 6px; background: #fff; }
.gone { display: flex; align-items: center; justify-content: center; color: #8a949e; font-size: .7rem; text-align: center; }
.right img { border-color: var(--good); } .wrong img { border-color: var(--bad); } .right b { color: var(--good); }
.found { list-style: none; padding: 0; margin: 0; } .found li { display: flex; gap: 14px; align-items: center; border-top: 1px solid var(--rule); padding: 8px 0; }
.found .score { flex: 0 0 64px; font-variant-numeric: tabular-nums; color: var(--soft); }
.sheet { display: flex; flex-wrap: wrap; gap: 12px; padding: 0; list-style: none; } .sheet li { width: 136px; font-size: .8rem; color: var(--soft); }
.sheet img, .sheet .gone { width: 130px; height: 130px; } .sheet img { border: 1px solid var(--rule); border-radius: 6px; background: #fff; display: block; }
@media (max-width: 560px) { .row { display: block; } .ask { margin-bottom: 6px; } }
text { font: 12.5px system-ui, sans-serif; fill: var(--ink); } text.unit { fill: var(--soft); } text.head { font-weight: 600; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); fill: none; } .frame { fill: none; stroke: var(--rule); }
.line { fill: none; stroke-width: 2.2; stroke: var(--c); } .faint { fill: none; stroke: var(--c0); opacity: .3; }
.fill { fill: var(--c); opacity: .8; } .dot { fill: var(--c); } .rest { opacity: .35; } .ring { fill: none; stroke: var(--ink); }
.whisker { stroke: var(--ink); fill: none; stroke-width: 1.4; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
@media print { body { max-width: none; } details { display: block; } }
"""


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically; the same report gives the same bytes."""
    with atomic_file(path, "w") as handle:
        handle.write(render(report))


def render(report: Report) -> str:
    """The page as HTML. All text is escaped."""
    thumbnails = Thumbnails()
    metric = next(iter(d.metric for d in report.differences), "ndcg@10")
    sections = [
        _section(
            "Scores",
            score_bars(report.systems) if report.systems else "",
            "Mean over the held-out queries; whiskers are 95 % bootstrap intervals.",
            "Nothing was scored: there were no held-out queries.",
        ),
        _section(
            "Is it better?",
            difference_plot(report.differences) + _difference_table(report.differences) if report.differences else "",
            "Differences query by query. An interval across zero is not shown to be a difference.",
            "There was nothing to compare with.",
        ),
        _reasons(report.reasons),
        _retained(report.retained),
        _section(
            "Training",
            loss_curve(report.steps, report.dev_scores, report.best_step, metric, report.dev_intervals) if report.steps else "",
            "Faint: every step. Strong: running mean. Whiskers: the start (dashed) plus the 95 % interval of the difference to it; the "
            "checkpoint whose whisker begins highest is kept.",
            "No step was recorded.",
        ),
        *(render_grid(grid, thumbnails) for grid in report.grids),
        *(
            # a page of grids shows its queries there
            _changes(title, changes, report.changed_against)
            for title, changes in (("What got better", report.gained), ("What got worse", report.lost))
            if changes or not report.grids
        ),
        _section(
            "Embedding map",
            scatter(report.points) if report.points else "",
            "Documents by their two principal components; hover to read one. Distances in the plane are only a shadow of the real ones.",
            "No texts were projected.",
        ),
        _record(report),
    ]
    return html_page(report.title, report.subtitle, _verdict(report.verdict) + "\n".join(sections))


def html_page(title: str, subtitle: str, body: str) -> str:
    """A whole page around a body that is HTML already; title and subtitle are escaped."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n"
        f'<p class="soft">{escape(subtitle)}</p></header>\n' + body + "\n</body>\n</html>\n"
    )


def _verdict(lines: Sequence[str]) -> str:
    return f'<div class="verdict">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>\n' if lines else ""


def _section(title: str, content: str, caption: str, absent: str) -> str:
    if not content:
        return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(absent)}</p></section>'
    return f"<section><h2>{escape(title)}</h2><figure>{content}<figcaption>{escape(caption)}</figcaption></figure></section>"


def _reasons(reasons: Sequence[tuple[str, str]]) -> str:
    if not reasons:
        return ""
    items = "".join(f'<li>{escape(found)}<br><span class="soft">{escape(advice)}</span></li>' for found, advice in reasons)
    return f"<section><h2>Why, and what to try</h2><ul>{items}</ul></section>"


def _retained(kept: Retained | None) -> str:
    """The section on forgetting; a run that measured none says how to."""
    pictures = caption = ""
    if kept and kept.differences:
        pictures = difference_plot(kept.differences) + _difference_table(kept.differences) + score_bars(kept.systems)
        caption = "The retention task: what the model could do before. It changes no verdict."
    elif kept and kept.overlap:
        pictures = overlap_bar(kept.overlap, kept.neighbours)
        caption = "Each text's nearest neighbours under the start and under the kept weights. Reported, not judged."
    absent = "Not measured. A task of what the model could do before shows what it forgot: nearfar train ... --retain TASK"
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in kept.sentences) if kept else ""
    return _section("What it kept, and what it forgot", said + pictures if pictures else "", caption, absent)


def _difference_table(differences: Sequence[Comparison]) -> str:
    head = "<tr><th>comparison</th><th>metric</th><th class=n>difference</th><th class=n>95 % interval</th><th class=n>p</th>"
    head += "<th class=n>better</th><th class=n>worse</th></tr>"
    rows = [
        f"<tr><td>{escape(d.a)} vs {escape(d.b)}</td><td>{escape(label(d.metric))}</td><td class=n>{d.difference:+.4f}</td>"
        f"<td class=n>[{d.low:+.4f}, {d.high:+.4f}]</td><td class=n>{escape(said_p(d.p))}</td><td class=n>{d.better:,}</td>"
        f"<td class=n>{d.worse:,}</td></tr>"
        for d in differences
    ]
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _changes(title: str, changes: Sequence[Change], against: str) -> str:
    if not changes:
        return f'<section><h2>{escape(title)}</h2><p class="soft">No query did.</p></section>'
    beside = f" (ranks: {escape(against)} → trained)" if against else ""
    parts = []
    for change in changes:
        up = (change.after or 10**9) < (change.before or 10**9)
        before, after = (f"{rank:,}" if rank else "not found" for rank in (change.before, change.after))
        parts.append(
            f'<div class="change"><b dir="auto">{escape(change.query)}</b> '
            f'<span class="rank {"up" if up else "down"}">{before} → {after}</span>'
            f'<blockquote dir="auto">{escape(_cut(change.relevant))}</blockquote>'
            + (
                f'<details><summary class="soft">ranked first instead</summary><blockquote dir="auto">{escape(_cut(change.instead))}'
                "</blockquote></details>"
                if change.instead
                else ""
            )
            + "</div>"
        )
    return f'<section><h2>{escape(title)}</h2><p class="soft">The greatest changes{beside}.</p>{"".join(parts)}</section>'


def _record(report: Report) -> str:
    parts = []
    if report.next_steps:
        parts.append(f"<section><h2>What to do next</h2><pre>{escape(chr(10).join(report.next_steps))}</pre></section>")
    tables = (
        ("Settings", [(f"{n} = {v}", m) for n, v, m in report.settings]),
        ("Inputs", list(report.inputs)),
        ("Machine and versions", [(k, str(v)) for k, v in report.machine.items()]),
        ("Seconds", [(k, f"{v:,.1f}") for k, v in report.seconds.items()]),
    )
    for title, rows in tables:
        if rows:
            body = "".join(f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td></tr>" for a, b in rows)
            parts.append(f"<section><details><summary><b>{title}</b></summary><table>{body}</table></details></section>")
    return "\n".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"
