"""A run over pictures of which some are broken trains on the others and says which it left out; where too many are, it does not begin."""

from pathlib import Path

import pytest
from pictures import pictures

from nearfar.encoders import small_image
from nearfar.errors import BadInput, Mismatch
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Picture

SETTINGS = ("epochs=1", "batch_size=8", "loss.name=nt_xent", "augment.kind=cifar")


def run(tmp_path: Path, broken: int):
    """A short SimCLR run over 60 pictures, the first few of them torn; and the notes it gave."""
    some = pictures(60)
    torn = [Picture(f"torn {n}.png", data=one.read()[:40]) for n, one in enumerate(some[:broken])]
    every = [*torn, *some[broken:]]
    notes = []
    result = train(
        [Pair(one, one) for one in every],
        out=tmp_path / "run",
        encoder=small_image(16, widths=(8, 16)),
        config=parse_settings(list(SETTINGS)),
        where=[f"p.csv:{n + 2}" for n in range(60)],
        progress=lambda *a, **facts: notes.append(str(facts.get("note", ""))),
    )
    return result, notes


def test_broken_pictures_end_no_run_and_are_named(tmp_path: Path):
    result, notes = run(tmp_path, 2)
    assert (result.run / "model").is_dir()
    assert any("2 left out for their pictures (p.csv:2: torn 0.png" in note for note in notes)


def test_too_many_broken_pictures_are_refused_before_the_first_step(tmp_path: Path):
    with pytest.raises(BadInput, match=r"of 60 pairs 6 left out .*p\.csv:2.*More than 5%"):
        run(tmp_path, 6)


def test_a_run_does_not_go_on_where_a_picture_has_other_bytes(tmp_path: Path):
    some = pictures(24)
    for number, one in enumerate(some):
        (tmp_path / f"{number}.png").write_bytes(one.read())

    def go(*, resume: bool):
        every = [Picture(tmp_path / f"{number}.png") for number in range(24)]
        encoder, config = small_image(16, widths=(8, 16)), parse_settings(list(SETTINGS))
        train([Pair(one, one) for one in every], out=tmp_path / "run", encoder=encoder, config=config, resume=resume)

    go(resume=False)
    go(resume=True)
    (tmp_path / "5.png").write_bytes(pictures(1, seed=9)[0].read())
    with pytest.raises(Mismatch, match="the pairs changed"):
        go(resume=True)
