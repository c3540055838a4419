"""The audit of pictures and captions: names of pictures are never read as words, broken ones are findings, and a model's scores tell how many captions are shuffled."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.auditing import audit, material_of
from nearfar.auditing.controls import by_controls, rank_again, worst
from nearfar.auditing.fixing import fix
from nearfar.auditing.matching import check_matching, estimate, percentiles
from nearfar.data.pairs import read_pairs
from nearfar.errors import BadInput
from nearfar.types import Pair, Picture

Image = pytest.importorskip("PIL.Image", reason="needs pillow")


class _Numbers:
    """Inputs that are the items themselves."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def select(self, rows):
        return _Numbers([self.items[row] for row in np.asarray(rows)])


class Seer:
    """An encoder that reads what thing a caption or a picture is of from its name, and sees it through noise of this strength.

    It knows the pairs of `known` by heart, as a model knows what it was trained on: to them it gives the thing of the caption.
    """

    dim, device, size = 32, torch.device("cpu"), 8

    def __init__(self, noise: float = 0.0, known: list[Pair] | None = None):
        self.noise = noise
        self.known = {pair.positive: thing(pair.query) for pair in known or []}

    def prepare(self, items, role="document"):
        return _Numbers(list(items))

    def __call__(self, inputs):
        return torch.from_numpy(np.stack([self._row(item) for item in inputs.items]))

    def _row(self, item: str) -> np.ndarray:
        number = self.known.get(item, thing(item))
        row = np.random.default_rng(number).standard_normal(self.dim)
        row += self.noise * np.random.default_rng(
            [number, len(item)] if isinstance(item, Picture) else 10**6 + number
        ).standard_normal(self.dim)
        return (row / np.linalg.norm(row)).astype(np.float32)

    def fingerprint(self):
        return "sha256:seer"

    def save(self, folder):
        raise NotImplementedError


def thing(item: str) -> int:
    return int("".join(c for c in Path(item).stem if c.isdigit()))


def captioned(count: int, shuffled: float, seed: int = 0) -> tuple[list[Pair], np.ndarray]:
    """Captions and pictures of so many things; of this share the pictures are exchanged among each other. And which."""
    rng = np.random.default_rng(seed)
    owner = np.arange(count)
    wrong = np.sort(rng.choice(count, round(shuffled * count), replace=False))
    owner[wrong] = np.roll(owner[wrong], 1)
    pairs = [Pair(f"a drawing of number {n}", drawn(int(owner[n]), f"{owner[n]}.png")) for n in range(count)]
    return pairs, wrong


def drawn(number: int, name: str) -> Picture:
    """A picture of this number, unlike that of any other."""
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (number % 256, number // 256, 0)).save(data, "PNG")
    return Picture(name, data=data.getvalue())


@pytest.mark.parametrize("shuffled", [0.0, 0.2, 0.4])
def test_the_share_of_shuffled_captions_is_told_by_a_models_scores(shuffled: float):
    pairs, wrong = captioned(1_200, shuffled)
    material = material_of(pairs, encoder=Seer(noise=1.0), model_name="seer")
    rows, ranks = percentiles(material)
    told = estimate(ranks)
    assert abs(told.share - shuffled) < 0.05
    assert told.low <= shuffled <= told.high
    found = check_matching(material)
    assert [f.code for f in found] == ["mismatched_positives"]
    assert (found[0].severity == "critical") == (shuffled > 0)
    assert "by seer" in found[0].what
    assert "BM25" not in found[0].what
    # what is left out is nearly all of what is wrong
    gone = worst(rows, ranks, told.share)
    assert len(set(gone.tolist()) & set(wrong.tolist())) >= 0.85 * len(wrong)


@pytest.mark.parametrize("shuffled", [0.0, 0.3])
def test_a_model_that_knows_the_pairs_by_heart_is_fooled_and_beside_controls_is_not(shuffled: float):
    pairs, wrong = captioned(3_000, shuffled, seed=1)
    fooled = estimate(percentiles(material_of(pairs, encoder=Seer(1.0, known=pairs)))[1])
    assert fooled.high < 0.2
    given = []

    def fit(spoiled):
        given.append(spoiled)
        return Seer(1.0, known=[pair for number, pair in enumerate(spoiled) if number % 2])  # half of them learned by heart

    rows, ranks, told = by_controls(material_of(pairs), fit)
    assert abs(told.share - shuffled) < 0.1
    assert told.low <= shuffled <= told.high
    assert len(rows) == len(ranks) == 3_000
    moved = [sum(a.positive != b.positive for a, b in zip(pairs, spoiled, strict=True)) for spoiled in given]
    assert all(295 <= count <= 300 for count in moved)
    assert [p.query for p in given[0]] == [p.query for p in pairs]
    # of what is left out most is wrong, though half of that is known by heart
    gone = set(worst(rows, ranks, told.share / 2).tolist())
    assert len(gone & set(wrong.tolist())) >= 0.8 * len(gone)


def test_where_even_controls_are_known_by_heart_nothing_is_known():
    pairs, _ = captioned(400, 0.3)
    _, _, told = by_controls(material_of(pairs), lambda spoiled: Seer(0.1, known=spoiled), runs=2)
    assert (told.low, told.high) == (0.0, 1.0)
    with pytest.raises(BadInput, match="too few"):
        by_controls(material_of(pairs[:50]), lambda spoiled: Seer(0.1))


def test_models_that_did_not_learn_from_the_worst_pairs_tell_the_rest():
    pairs, wrong = captioned(3_000, 0.3, seed=2)
    given = []

    def fit(these):
        given.append({(p.query, p.positive) for p in these})
        return Seer(1.0, known=these)  # knows by heart whatever it is given, and sees what the rest is

    # ranks that know two thirds of what is wrong
    rows, ranks = np.arange(3_000), np.random.default_rng(0).random(3_000) / 2
    ranks[wrong[: 2 * len(wrong) // 3]] += 0.5
    share = len(wrong) / 3_000
    before = set(worst(rows, ranks, share).tolist())
    again, found = rank_again(material_of(pairs), fit, rows, ranks, share, rounds=2, folds=3)
    assert np.array_equal(again, rows)
    keys = [(p.query, p.positive) for p in pairs]
    assert len(given) == 6
    for models in (given[:3], given[3:]):
        # of each round's models one did not see each pair that was left, and none what was left out
        times = np.array([sum(key in model for model in models) for key in keys])
        assert set(times.tolist()) == {0, 2}
        assert (times == 0).sum() == round(share * 3_000)
    assert {row for row, key in enumerate(keys) if not any(key in model for model in given[:3])} == before
    # what the first ranks did not know, those who did not see it told
    right = set(wrong.tolist())
    assert len(before & right) < 0.8 * len(wrong)
    assert len(set(worst(again, found, share).tolist()) & right) > 0.85 * len(wrong)


def test_without_a_model_no_word_of_a_pictures_name_accuses_anyone():
    pairs, _ = captioned(400, 0.5)
    # names that are swapped, cut, boilerplate, and near copies of each other, if they were texts
    pairs = [Pair(p.query, Picture(f"the same long folder of many words/{p.positive}", data=p.positive.data)) for p in pairs]
    found = audit(pairs)
    assert {f.code for f in found.findings} <= {"near_queries"}
    assert any("needs a model with an image tower" in told for told in found.left_out)


def test_a_picture_beside_itself_is_no_pair_of_two_equal_texts():
    pairs, _ = captioned(60, 0.0)
    assert audit([Pair(p.positive, p.positive) for p in pairs]).findings == ()


def _folder(tmp_path: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    path = tmp_path / "pairs.csv"
    path.write_text("caption,image\n" + "".join(f"a drawing of number {n},{n}.png\n" for n in range(count)))
    return path


def test_missing_and_broken_pictures_are_one_finding_and_the_cleaned_copy_lacks_them(tmp_path: Path):
    path = _folder(tmp_path, 60)
    material = material_of(path)
    found = audit(path)
    broken = next(f for f in found.findings if f.code == "broken_pictures")
    assert (broken.count, broken.total, broken.severity) == (2, 60, "warning")
    assert {example.where for example in broken.examples} == {f"{path}:3", f"{path}:4"}
    done = fix(material, path, tmp_path / "cleaned.csv")
    assert done.reasons == {"broken_pictures": 2}
    assert len(read_pairs(tmp_path / "cleaned.csv").pairs) == 58


def test_a_copy_in_another_folder_would_lose_its_pictures_and_is_refused(tmp_path: Path):
    path = _folder(tmp_path, 60)
    with pytest.raises(BadInput, match=r"named from its folder\. Write the copy beside it"):
        fix(material_of(path), path, tmp_path / "elsewhere/cleaned.csv")


def test_of_a_row_with_several_captions_only_one_that_is_wrong_in_all_goes(tmp_path: Path):
    _folder(tmp_path, 6)
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"captions": ["a cat there", "a cat there"], "image": "0.png"}\n{"captions": ["x", "a dog there"], "image": "3.png"}\n{"captions": ["y"], "image": "4.png"}\n'
    )
    done = fix(material_of(path), path, tmp_path / "cleaned.jsonl")
    assert done.kept == 2
    assert [p.query for p in read_pairs(tmp_path / "cleaned.jsonl").pairs] == ["a cat there", "a cat there", "x", "a dog there"]


def test_one_picture_under_two_names_is_one_picture():
    pairs, _ = captioned(60, 0.0)
    copy = Pair(pairs[7].query, drawn(7, "another folder/IMG_0007.png"))
    found = next(f for f in audit([*pairs, copy]).findings if f.code == "duplicate_pairs")
    assert (found.count, found.total) == (1, 61)


def test_pictures_whose_names_differ_by_case_are_two():
    pairs, _ = captioned(60, 0.0)
    other = Pair("a drawing of something else", drawn(999, "7.PNG"))
    assert not [f for f in audit([*pairs, other]).findings if f.code.startswith("duplicate")]
