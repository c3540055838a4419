"""The page: whole without a network, safe with any text, the same bytes for the same facts."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.evaluation import Comparison
from nearfar.report import Change, MapPoint, Report, Retained, Score, StepPoint, System, project, render, write_report
from nearfar.report.svg import difference_plot, loss_curve, overlap_bar, scatter, score_bars

NASTY = "<script>alert('x')</script> & \"quotes\" </svg> 漢字 \u202e"
FULL = Report(
    title=NASTY,
    subtitle=NASTY,
    verdict=[NASTY, "second"],
    systems=[System(NASTY, {"ndcg@10": Score(0.5, 0.4, 0.6)}), System("b", {"ndcg@10": Score(0.3, 0.2, 0.4)})],
    differences=[Comparison(NASTY, "b", "ndcg@10", 0.2, 0.1, 0.3, 0.0001, 7, 3)],
    steps=[StepPoint(n, 5 / n, 0.1) for n in range(1, 40)],
    dev_scores=[(0, 0.2), (20, 0.4), (39, 0.3)],
    dev_intervals=[(0, 0.0, 0.0), (20, 0.1, 0.3), (39, 0.05, 0.15)],
    best_step=20,
    reasons=[(NASTY, "try this")],
    retained=Retained(
        [NASTY],
        [System("start", {"ndcg@10": Score(0.5, 0.4, 0.6)})],
        [Comparison("a", "b", "ndcg@10", *[-0.25] * 3, 0.01, 1, 9)],
    ),
    gained=[Change(NASTY, NASTY, None, 1, NASTY)],
    lost=[Change("lost", "text", 2, 30, "")],
    changed_against=NASTY,
    points=[MapPoint(x, x * x, f"g{x % 9}", NASTY) for x in range(30)],
    settings=[("seed", "0", NASTY)],
    inputs=[(NASTY, "sha256:0")],
    machine={NASTY: NASTY},
    seconds={"training": 1.5},
    next_steps=[NASTY],
)


class Seen(HTMLParser):
    """Every tag with its attributes, the text between, and whether the tags close as they open."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_no_text_becomes_markup_and_every_tag_closes():
    seen = Seen(render(FULL))
    assert seen.open == []
    assert "script" not in {tag for tag, _ in seen.tags}
    assert "alert('x')" in "".join(seen.text)
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)


def test_the_page_fetches_nothing():
    seen = Seen(render(FULL))
    assert not {"link", "img", "iframe", "object", "embed"} & {tag for tag, _ in seen.tags}
    assert not any(name in ("src", "href", "action") for _, attrs in seen.tags for name in attrs)
    assert not re.search(r"@import|url\(", render(FULL))
    assert set(re.findall(r"https?://[^\s\"<]+", render(FULL))) == {"http://www.w3.org/2000/svg"}


def test_every_part_is_there_and_says_its_numbers():
    text = "".join(Seen(render(FULL)).text)
    headings = "Scores|Is it better?|Training|What got better|What got worse|Embedding map|Settings"
    for heading in [*headings.split("|"), "Why, and what to try", "What it kept, and what it forgot"]:
        assert heading in text
    for said in (
        "0.500 [0.400, 0.600]",
        "+0.2000",
        "[+0.1000, +0.3000]",
        "< 0.001",
        "kept: step 20, 0.400",
        "not found → 1",
        "2 → 30",
        "try this",
        "-0.2500",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    "part",
    [
        "systems",
        "differences",
        "steps",
        "dev_scores",
        "dev_intervals",
        "gained",
        "lost",
        "points",
        "settings",
        "verdict",
        "reasons",
    ],
)
def test_any_part_may_be_absent(part):
    page = render(replace(FULL, **{part: ()}))
    assert Seen(page).open == []
    assert "nan" not in page


def test_a_report_of_nothing_says_so():
    text = "".join(Seen(render(Report("empty"))).text)
    assert "Nothing was scored" in text
    assert "No step was recorded" in text


def test_kept_neighbours_are_a_bar_with_their_number_and_nothing_measured_says_how_to():
    kept = Retained(["six of ten"], overlap=Score(0.6, 0.5, 0.7), neighbours=10)
    text = "".join(Seen(render(replace(FULL, retained=kept))).text)
    assert "six of ten" in text
    assert "6.0 of 10" in text
    root = ET.fromstring(overlap_bar(Score(0.6, 0.5, 0.7), 10))
    frame, bar = (node for node in root if node.tag.endswith("rect"))
    assert float(bar.get("width", 0)) == pytest.approx(0.6 * float(frame.get("width", 0)))
    assert "--retain TASK" in "".join(Seen(render(replace(FULL, retained=None))).text)


def test_dev_whiskers_stand_about_the_score_of_the_start():
    picture = loss_curve([StepPoint(1, 1.0, 0.1)], [(0, 0.2), (10, 0.4)], 10, "ndcg@10", [(0, 0.0, 0.0), (10, 0.1, 0.3)])
    root = ET.fromstring(picture)
    low, high = (float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", whisker_of(root))[0])
    dots = [float(node.get("cy", 0)) for node in root if node.get("class") == "dot c1"]
    assert (low + high) / 2 == pytest.approx(dots[1], abs=0.11)
    assert low - high == pytest.approx(dots[0] - dots[1], abs=0.11)


def whisker_of(root):
    return [node.get("d", "") for node in root if node.get("class") == "whisker"][-1]


def test_the_same_facts_give_the_same_bytes(tmp_path):
    write_report(tmp_path / "a.html", FULL)
    write_report(tmp_path / "b.html", FULL)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes() == render(FULL).encode()


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(finite, finite, st.text(max_size=5)), min_size=1, max_size=12), st.lists(finite, max_size=12))
def test_any_numbers_give_pictures_that_are_xml_without_nan(points, losses):
    pictures = [
        scatter([MapPoint(x, y, group, group) for x, y, group in points]),
        loss_curve(
            [StepPoint(n, loss, 0.1) for n, loss in enumerate(losses, 1)], [(1, x) for x, _, _ in points[:2]], 1, "ndcg@10"
        ),
        score_bars([System(group, {"mrr@10": Score(0.1, 0.0, 1.0)}) for _, _, group in points]),
        difference_plot([Comparison("a", group, "mrr@10", x, x, x, 0.5, 1, 1) for x, _, group in points]),
    ]
    for picture in pictures:
        # characters that no XML may hold are the text's own, not ours
        clean = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", picture)
        assert ET.fromstring(clean).tag.endswith("svg")
        assert "nan" not in re.sub(r">[^<]*<", "><", clean)


def test_whiskers_and_bars_are_drawn_where_the_numbers_are():
    root = ET.fromstring(score_bars([System("a", {"ndcg@10": Score(0.5, 0.25, 0.75)})]))
    bar = next(node for node in root if node.tag.endswith("rect"))
    whisker = next(node for node in root if node.get("class") == "whisker").get("d", "")
    low, high = (float(x) for x in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", whisker).groups())  # pyright: ignore[reportOptionalMemberAccess]
    left, width = float(bar.get("x")), float(bar.get("width"))
    assert (low + high) / 2 == pytest.approx(left + width)
    assert high - low == pytest.approx(width)


def test_the_projection_is_principal_components_with_fixed_signs():
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * [5, 3, 1, 1, 1, 1, 1]
    found = project(rows)
    centred = rows - rows.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    for place in range(2):
        assert np.abs(found[:, place]) == pytest.approx(np.abs(centred @ directions[place]), abs=1e-4)
        assert np.linalg.norm(found[:, place]) == pytest.approx(values[place], rel=1e-5)
    assert project(rows[::-1])[::-1] == pytest.approx(found, abs=1e-8)


@pytest.mark.parametrize("rows", [np.zeros((0, 4)), np.ones((1, 4)), np.ones((5, 1)), np.full((3, 4), 2.0)])
def test_rows_without_variance_are_in_the_middle(rows):
    assert project(rows).shape == (len(rows), 2)
    assert project(rows) == pytest.approx(np.zeros((len(rows), 2)))
