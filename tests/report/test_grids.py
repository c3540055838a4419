"""Pages full of pictures: self-contained, of bounded size, safe with any text, the same bytes for the same facts."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from nearfar.report import Found, Grid, GridRow, Report, Searched, Tile, render, write_results
from nearfar.report.thumbnails import SIDE, Thumbnails
from nearfar.types import Picture

pytest.importorskip("PIL")

from PIL import Image

from pictured import png

NASTY = "<script>alert('x')</script> & \"quotes\" 漢字"


def grid(pictures, mark="right"):
    return Grid(
        NASTY, NASTY, [GridRow(pictures[0], NASTY, [Tile(p, NASTY, mark) for p in pictures]), GridRow(NASTY, NASTY, [])]
    )


def pictures(count=3):
    return [Picture(f"{n} {NASTY}", data=png("red", 32, seed=n)) for n in range(count)]


def test_a_grid_holds_small_pictures_and_nothing_is_fetched():
    page = render(Report(title="t", grids=[grid(pictures())]))
    uris = re.findall(r'src="([^"]+)"', page)
    assert len(uris) == 4
    for uri in uris:
        kind, data = re.fullmatch(r"data:image/(jpeg|png);base64,(.+)", uri).groups()
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (image.size, image.format) == ((SIDE, SIDE), kind.upper())
    assert "<script" not in page
    assert "http" not in page
    assert page == render(Report(title="t", grids=[grid(pictures())]))


def test_a_picture_shown_twice_is_drawn_once_and_one_that_is_gone_is_named(tmp_path):
    thumbnails = Thumbnails()
    gone = Picture("gone.png", file=tmp_path / "gone.png")
    assert thumbnails.html(gone) == '<div class="gone" title="gone.png">not shown</div>'
    there = pictures(1)[0]
    assert thumbnails.html(there) == thumbnails.html(there)
    assert "alert" in thumbnails.html(there)
    assert "<script" not in thumbnails.html(there)


def test_the_size_of_a_page_is_bounded():
    noise = np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), dtype=np.uint8)
    items = []
    for number, pixels in enumerate(noise):
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        items.append(Picture(f"{number}.png", data=held.getvalue()))
    thumbnails = Thumbnails(most=50)
    parts = [thumbnails.html(item) for item in items]
    assert sum("data:image" in part for part in parts) == 50
    assert max(len(part) for part in parts) < 12_000  # noise is the worst there is


def test_a_page_with_grids_says_of_no_query_that_it_did_not_move():
    assert "No query did" in render(Report(title="t"))
    assert "No query did" not in render(Report(title="t", grids=[grid(pictures())]))
    assert "None." in render(Report(title="t", grids=[Grid("empty", "", [])]))


def test_results_of_both_kinds_and_of_none_are_shown(tmp_path):
    one = pictures(1)[0]
    searches = [
        Searched(NASTY, [Found("a", 0.5, one)]),
        Searched(one, [Found("a", 0.5, one), Found(NASTY, 0.25, NASTY)]),
        Searched("nothing", []),
    ]
    write_results(tmp_path / "page.html", searches, index=NASTY)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/") == 3
    assert "<script" not in page
    assert "Nothing found" in page
    assert "0.500" in page
    assert page.count("漢字") >= 4
