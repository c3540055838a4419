"""Laws of judging pictures with texts: any partner counts, both ways, against plain loops; classes by their names."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.data.tasks import turn
from nearfar.embedding import embed
from nearfar.errors import BadConfig, BadInput
from nearfar.evaluation import compare, evaluate, evaluate_image_text, evaluate_rows, is_image_text
from nearfar.evaluation.image_text import chance_of, measure
from nearfar.evaluation.zero_shot import class_rows, classify
from nearfar.metrics import modality_gap
from nearfar.types import Picture, Task

pytest.importorskip("PIL")

from pictured import COLOURS, ColourEncoder, png


def colour_task(each=3):
    """Pictures of five colours, several of each; two captions of each colour and one picture that nobody asks for."""
    corpus = {f"{c}-{n}": Picture(f"{c}-{n}.png", data=png(c, seed=n)) for c in COLOURS for n in range(each)}
    corpus["alone"] = Picture("alone.png", data=png("red", seed=99))
    queries = {f"{c}-{word}": f"{word} {c}" for c in COLOURS for word in ("a", "some")}
    judged = {key: {f"{key.split('-')[0]}-{n}": 1 for n in range(each)} for key in queries}
    return Task("colours", corpus, queries, judged)


def random_task(rng, texts=40, pictures=25, d=6):
    """Random rows; every picture has one to three captions, a caption up to two pictures."""
    partners = {
        f"t{n:02}": {f"p{p:02}": 1 for p in rng.choice(pictures, size=rng.integers(1, 3), replace=False)} for n in range(texts)
    }
    corpus = {f"p{n:02}": Picture(f"p{n:02}") for n in range(pictures)}
    task = Task("random", corpus, {key: key for key in partners}, partners)
    return task, rng.standard_normal((texts, d)), rng.standard_normal((pictures, d))


def test_recall_counts_any_partner_both_ways_as_plain_loops_do():
    rng = np.random.default_rng(0)
    task, texts, pictures = random_task(rng)
    found = measure(texts.astype(np.float32), pictures.astype(np.float32), task, name="random")
    scores = texts.astype(np.float32).astype(float) @ pictures.astype(np.float32).astype(float).T
    wanted = np.array([[p in task.judgements[t] for p in task.corpus] for t in task.queries])
    for direction, similarity, relevant in ((found.text_to_image, scores, wanted), (found.image_to_text, scores.T, wanted.T)):
        asking = relevant.any(axis=1)
        ranks = []
        for row, mine in zip(similarity[asking], relevant[asking], strict=True):
            order = np.argsort(-row)
            ranks.append(1 + next(place for place, column in enumerate(order) if mine[column]))
        assert direction.ranks.tolist() == ranks
        assert direction.median_rank.mean == np.median(ranks)
        for k in (1, 5, 10):
            assert direction.evaluation.metrics[f"success@{k}"].tolist() == [float(rank <= k) for rank in ranks]


def test_an_image_with_five_captions_is_answered_by_one_of_them():
    task = Task(
        "five",
        {"p": Picture("p"), "q": Picture("q")},
        {f"t{n}": str(n) for n in range(6)},
        {f"t{n}": {"p" if n < 5 else "q": 1} for n in range(6)},
    )
    texts = np.array([[1, 0], *[[-1, 0]] * 4, [0, 1]], dtype=np.float32)  # four of p's five captions are as wrong as can be
    found = measure(texts, np.eye(2, dtype=np.float32), task, name="five")
    assert found.image_to_text.evaluation.metrics["success@1"].tolist() == [1, 1]
    assert found.image_to_text.evaluation.query_ids == ("p", "q")


def test_ties_are_broken_the_same_way_in_ranks_and_in_recall():
    rng = np.random.default_rng(4)
    task, texts, pictures = random_task(rng, d=2)
    texts, pictures = np.round(texts).astype(np.float32), np.round(pictures).astype(np.float32)
    found = measure(texts, pictures, task, name="tied")
    for direction in (found.text_to_image, found.image_to_text):
        assert np.array_equal(direction.evaluation.metrics["success@5"], (direction.ranks <= 5).astype(float))


def test_chance_is_the_mean_of_shuffled_answers():
    rng = np.random.default_rng(2)
    relevant, n, k = [1, 1, 3], 12, 5
    drawn = [np.mean([bool(set(rng.permutation(n)[:k]) & set(range(r))) for r in relevant]) for _ in range(4000)]
    assert chance_of(f"success@{k}", relevant, n) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_of("success@10", [3], 12) == 1  # nine of twelve cannot all be missed
    with pytest.raises(BadInput, match="success@k alone"):
        chance_of("ndcg@10", [1], 5)


def test_an_encoder_that_knows_colours_finds_their_pictures():
    encoder, task = ColourEncoder(), colour_task()
    found = evaluate_image_text(encoder, task, name="colours")
    assert found.text_to_image.evaluation.metrics["success@1"].mean() == 1
    assert found.image_to_text.evaluation.metrics["success@1"].mean() == 1
    assert len(found.image_to_text.ranks) == 15  # the picture that nobody asks for asks nothing
    assert found.text_to_image.evaluation.system == "colours"
    assert found.text_to_image.chance["success@1"] == pytest.approx(3 / 16)


def test_it_does_not_matter_which_side_the_folder_calls_queries():
    encoder, task = ColourEncoder(gap=0.3), colour_task()
    task = Task(task.name, {key: p for key, p in task.corpus.items() if key != "alone"}, task.queries, task.judgements)
    one, other = evaluate_image_text(encoder, task), evaluate_image_text(encoder, turn(task))
    for name in ("text_to_image", "image_to_text"):
        a, b = getattr(one, name), getattr(other, name)
        assert sorted(zip(a.evaluation.query_ids, a.ranks.tolist(), strict=True)) == sorted(
            zip(b.evaluation.query_ids, b.ranks.tolist(), strict=True)
        )
    assert one.gap == pytest.approx(other.gap)


def test_the_gap_and_what_it_does_to_a_mixed_search_is_said():
    task = colour_task()
    near, far = evaluate_image_text(ColourEncoder(), task), evaluate_image_text(ColourEncoder(gap=4.0), task)
    rows = [embed(ColourEncoder(gap=4.0), list(side.values())) for side in (task.corpus, task.queries)]
    assert far.gap.distance == pytest.approx(modality_gap(*rows).distance)
    assert far.gap.distance > near.gap.distance
    found = {finding.code: finding for finding in far.findings}
    assert found["pictures_nearer_to_pictures"].count == 15
    assert "pictures_nearer_to_pictures" not in {finding.code for finding in near.findings}
    assert far.pictures.own > far.pictures.partner > far.pictures.other


def test_a_collapsed_kind_is_critical_and_a_hub_is_named():
    rng = np.random.default_rng(0)
    task, texts, pictures = random_task(rng)
    same = np.ones_like(pictures) + 1e-3 * pictures
    found = measure(texts, same, task, name="flat")
    assert ("collapsed", "critical") in {(finding.code, finding.severity) for finding in found.findings}
    hubby = np.abs(texts)
    loud = pictures.copy()
    loud[3] = 100
    hubs = [finding for finding in measure(hubby, loud, task, name="hub").findings if finding.code == "hub"]
    assert hubs[0].examples[0].where == "p03"
    assert hubs[0].share == 1


def test_a_mixed_side_is_refused():
    task = colour_task()
    mixed = Task("mixed", {**task.corpus, "text": "red"}, task.queries, task.judgements)
    assert is_image_text(task)
    assert is_image_text(turn(task))
    assert not is_image_text(mixed)
    with pytest.raises(BadInput, match="texts on one side"):
        evaluate_image_text(ColourEncoder(), mixed)
    with pytest.raises(BadInput, match="bm25: it compares words"):
        evaluate("bm25", task)


def test_rows_that_are_there_are_judged_as_the_encoder_that_made_them():
    encoder, task = ColourEncoder(), colour_task()
    rows = [embed(encoder, list(side.values())) for side in (task.queries, task.corpus)]
    one = evaluate_rows(*rows, task, name="colours", metrics=["ndcg@10", "success@1"], model_fingerprint=encoder.fingerprint())
    other = evaluate(encoder, task, metrics=["ndcg@10", "success@1"], name="colours")
    assert one.to_json() | {"seconds": 0} == other.to_json() | {"seconds": 0}
    assert compare(one, other).difference == 0


def test_a_class_is_the_unit_mean_of_its_unit_prompts():
    encoder = ColourEncoder(gap=0.2)
    found = class_rows(encoder, ["red", "blue"], ["a photo of a {}", "green {}"])
    for row, name in zip(found, ("red", "blue"), strict=True):
        parts = embed(encoder, [f"a photo of a {name}", f"green {name}"])
        mean = (parts / np.linalg.norm(parts, axis=1, keepdims=True)).mean(axis=0)
        assert row == pytest.approx(mean / np.linalg.norm(mean))


def test_pictures_get_the_class_whose_name_is_nearest():
    pictures = {f"{c}-{n}": Picture(f"{c}-{n}", data=png(c, seed=n)) for c in ("red", "blue") for n in range(4)}
    labels = {key: key.split("-")[0] for key in pictures}
    found = classify(ColourEncoder(), pictures, labels, names=list(COLOURS))
    assert found.accuracy.mean == 1
    assert [(score.name, score.pictures) for score in found.classes] == [("blue", 4), ("red", 4)]
    wrong = classify(ColourEncoder(), pictures, labels | {"red-0": "blue"})
    assert wrong.accuracy.mean == pytest.approx(7 / 8)
    blue = wrong.classes[0]
    assert (blue.pictures, blue.instead) == (5, "red")


def test_templates_and_labels_that_make_no_sense_are_refused():
    pictures = {"a": Picture("a", data=png("red")), "b": Picture("b", data=png("blue"))}
    with pytest.raises(BadConfig, match=r"one \{\} for the name"):
        classify(ColourEncoder(), pictures, {"a": "red", "b": "blue"}, templates=["a photo"])
    with pytest.raises(BadInput, match="picture 'b': its class is None"):
        classify(ColourEncoder(), pictures, {"a": "red"})
    with pytest.raises(BadInput, match="2 pictures of 1 classes"):
        classify(ColourEncoder(), pictures, {"a": "red", "b": "red"})
