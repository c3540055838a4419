"""The loss by name: fed with what the pairs know, refused where they lack it, its own parameters kept."""

import json
import typing
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearfar import losses
from nearfar.data.collate import collate
from nearfar.data.sampling import PairTable
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.errors import BadConfig, BadInput, Mismatch
from nearfar.files import hash_file
from nearfar.training import parse_settings, train
from nearfar.training.checkpoint import latest_checkpoint
from nearfar.training.config import LossConfig, LossName
from nearfar.training.feeding import check_objective, unread_settings
from nearfar.training.objective import LOSSES, Objective, new_parameters
from nearfar.training.teachers import taught_pairs, teacher_scores
from nearfar.types import Pair

from tiny import StoppedError, stop_at, tiny_pairs, tiny_tokenizer

D = 6


class Numbers:
    """Inputs that remember which rows were selected."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def select(self, rows):
        return Numbers(self.rows[rows])


def rich_pairs(count=10, seed=0):
    """Pairs that know everything: scores 0 and 1, one to three hard negatives, a teacher's scores."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        negatives = tuple(f"n{i} {k}" for k in range(1 + i % 3))
        scores = tuple(rng.random(1 + len(negatives)).astype(np.float32).tolist())
        made.append(Pair(f"q{i}", f"p{i}", negatives, None, float(i % 2), None, scores))
    return made


class Situation:
    """A collated batch of pairs, and drawn unit rows for all their texts."""

    def __init__(self, pairs, seed=0):
        self.table = PairTable.build(pairs)
        self.batch = collate(
            self.table,
            np.arange(len(pairs)),
            Numbers(np.arange(len(self.table.queries))),
            Numbers(np.arange(len(self.table.documents))),
        )
        generator = torch.Generator().manual_seed(seed)

        def rows(count, width):
            return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1)

        self.every_query, self.every_document = rows(len(self.table.queries), D), rows(len(self.table.documents), D)
        self.guide = (rows(len(self.table.queries), 4), rows(len(self.table.documents), 4))
        assert self.batch.facts is not None
        self.queries = self.every_query[self.batch.facts.query_ids].requires_grad_()
        self.candidates = self.every_document[self.batch.facts.candidate_ids].requires_grad_()

    def document(self, text):
        return self.every_document[self.table.documents.index(text)]

    def loss(self, *settings):
        config = parse_settings(list(settings))
        parameters = new_parameters(config, torch.device("cpu"))
        return Objective(config, self.guide)(self.queries, self.candidates, self.batch, parameters)


def ask(name):
    return [f"loss.name={name}", *(["loss.guide=somewhere"] if name == "gist" else [])]


def test_every_name_that_can_be_set_is_in_the_table():
    assert set(LOSSES) == set(typing.get_args(LossName))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dims", [(), ("loss.dims=6,3",)])
def test_every_loss_of_the_table_is_one_number_with_a_gradient_in_queries_and_positives(name, dims):
    here = Situation(rich_pairs())
    value = here.loss(*ask(name), *dims)
    assert value.shape == ()
    value.backward()
    for rows in (here.queries, here.candidates):
        assert bool(torch.isfinite(rows.grad).all())
        assert float(rows.grad.abs().sum()) > 0


def test_by_default_it_is_info_nce_of_the_batch():
    here = Situation(rich_pairs())
    wanted = losses.info_nce(here.queries, here.candidates, here.batch.targets, temperature=0.05).mean()
    assert torch.equal(here.loss(), wanted)


def test_gte_is_all_four_directions_in_one_softmax_and_clip_the_mean_of_two():
    here = Situation([Pair(f"q{i}", f"p{i}") for i in range(8)])
    every = "query_to_candidate,candidate_to_query,query_to_query,candidate_to_candidate"
    assert torch.allclose(here.loss("loss.name=gte"), here.loss(f"loss.directions={every}", "loss.partition=joint"))
    wanted = losses.clip(here.queries, here.candidates, temperature=0.05).mean()
    assert torch.allclose(here.loss("loss.name=clip"), wanted)


def test_losses_beside_the_first_are_added_with_their_weights():
    here = Situation(rich_pairs())
    both = here.loss("loss.name=score_kl", "loss.also=info_nce:0.2,triplet:3")
    alone = here.loss("loss.name=score_kl") + 0.2 * here.loss() + 3 * here.loss("loss.name=triplet")
    assert torch.allclose(both, alone)


def test_nested_dimensions_are_the_weighted_sum_of_runs_on_cut_rows():
    here = Situation(rich_pairs())
    for name in ("info_nce", "cosent", "margin_mse"):
        wanted = torch.zeros((), dtype=torch.float64)
        for dim, factor in ((6, 1.0), (4, 0.5), (2, 0.25)):
            cut = Situation(rich_pairs())
            cut.queries = F.normalize(here.queries[:, :dim], dim=1)
            cut.candidates = F.normalize(here.candidates[:, :dim], dim=1)
            wanted = wanted + factor * cut.loss(f"loss.name={name}")
        found = here.loss(f"loss.name={name}", "loss.dims=6,4,2", "loss.dim_weights=1,0.5,0.25")
        assert torch.allclose(found, wanted), name


def test_triplets_and_margins_are_those_of_each_pairs_own_negatives():
    pairs = rich_pairs()
    here = Situation(pairs)
    triplets, margins = [], []
    for i, pair in enumerate(pairs):
        query, positive = here.every_query[i], here.document(pair.positive)
        own = [here.document(text) for text in pair.negatives]
        triplets.append(np.mean([max(0.0, float((query - positive).norm() - (query - n).norm() + 1)) for n in own]))
        each = []
        for n, taught in zip(own, pair.teacher_scores[1:], strict=True):
            each.append(float(query @ positive - query @ n - (pair.teacher_scores[0] - taught) / 2) ** 2)
        margins.append(np.mean(each))
    assert float(here.loss("loss.name=triplet").detach()) == pytest.approx(np.mean(triplets))
    found = here.loss("loss.name=margin_mse", "loss.teacher_temperature=2")
    assert float(found.detach()) == pytest.approx(np.mean(margins))


def test_the_teachers_distribution_is_compared_over_each_pairs_own_candidates():
    pairs = rich_pairs()
    here = Situation(pairs)
    wanted = []
    for i, pair in enumerate(pairs):
        own = torch.stack([here.document(text) for text in (pair.positive, *pair.negatives)])
        student = (own @ here.every_query[i] / 0.1).log_softmax(0)
        teacher = (torch.tensor(pair.teacher_scores, dtype=torch.float64) / 0.5).softmax(0)
        wanted.append(float((teacher * (teacher.log() - student)).sum()))
    found = here.loss("loss.name=score_kl", "temperature=0.1", "loss.teacher_temperature=0.5")
    assert float(found.detach()) == pytest.approx(np.mean(wanted))


def test_scores_reach_their_own_pairs_and_a_batch_of_equal_scores_teaches_nothing():
    pairs = rich_pairs()
    here = Situation(pairs)
    positives = torch.stack([here.document(p.positive) for p in pairs])
    scores = torch.tensor([p.score for p in pairs], dtype=torch.float64)
    assert torch.allclose(here.loss("loss.name=cosent"), losses.cosent(here.queries, positives, scores))
    assert torch.allclose(
        here.loss("loss.name=contrastive", "loss.margin=0.7"),
        losses.contrastive(here.queries, positives, scores == 1, margin=0.7).mean(),
    )
    equal = Situation([replace(p, score=0.5) for p in pairs])
    value = equal.loss("loss.name=cosent")
    value.backward()
    assert float(value.detach()) == 0
    assert equal.queries.grad is not None
    assert not bool(equal.queries.grad.any())


def test_a_guide_leaves_out_what_it_finds_nearer_and_what_the_pairs_know_stays_left_out():
    # the first six are groups of two; p0 is the positive of pairs 0 and 7
    pairs = [Pair(f"q{i}", f"p{i % 7}", (f"n{i}",), f"g{i // 2}" if i < 6 else None) for i in range(8)]
    here = Situation(pairs)
    guide_queries, guide_documents = here.guide
    group = here.table.group_of
    place = {text: i for i, text in enumerate(here.table.documents)}
    total = []
    for i, pair in enumerate(pairs):
        own = place[pair.positive]
        near, query, positive = float(guide_queries[i] @ guide_documents[own]), here.every_query[i], here.every_document[own]
        others = [j for j in range(8) if group[j] != group[i]]
        answers = [place[pairs[j].positive] for j in others if pairs[j].positive != pair.positive]
        # as columns belong to the group of the first pair that brought them, p0 is of group 0, whoever asks
        brought = [c for c in answers if c != place["p0"] or group[0] != group[i]]
        seen = [(guide_queries[i] @ guide_documents[c], query @ here.every_document[c]) for c in brought]
        seen += [
            (guide_queries[i] @ guide_documents[place[p.negatives[0]]], query @ here.document(p.negatives[0])) for p in pairs
        ]
        seen += [(guide_queries[i] @ guide_queries[j], query @ here.every_query[j]) for j in others]
        seen += [(guide_documents[own] @ guide_documents[c], positive @ here.every_document[c]) for c in brought]
        logits = torch.stack([query @ positive, *(s for g, s in seen if float(g) <= near)]) / 0.05
        total.append(float(logits.logsumexp(0) - logits[0]))
    found = here.loss("loss.name=gist", "loss.guide=somewhere")
    assert float(found.detach()) == pytest.approx(np.mean(total))


@pytest.mark.parametrize(
    ("settings", "change", "said"),
    [
        (["loss.name=cosent"], {"score": None}, r"1 of 10 pairs have no score .*'q0'.*column 'score'"),
        (["loss.name=contrastive"], {"score": 0.5}, r"'q0' is 0\.5; expected 1 \(alike\) or 0.*cosent"),
        (["loss.name=margin_mse"], {"teacher_scores": (), "score": None}, r"no teacher's scores .*loss\.teacher=MODEL"),
        (["loss.name=score_kl"], {"teacher_scores": ()}, r"no teacher's scores .*'teacher_scores'"),
        (["loss.name=gist"], {}, r"needs a guide model.*loss\.guide=MODEL"),
        (["loss.name=info_nce"], {}, r"5 of 10 pairs have score 0 .*would pull them together"),
        (["loss.name=debiased", "learn_temperature=true"], {}, "takes a fixed temperature"),
        (["loss.name=triplet", "learn_temperature=true"], {}, "has no temperature"),
    ],
)
def test_what_the_pairs_lack_is_named_before_the_first_step(settings, change, said, tmp_path):
    pairs = rich_pairs()
    pairs[0] = replace(pairs[0], **change)
    with pytest.raises((BadInput, BadConfig), match=said):
        check_objective(pairs, parse_settings(settings))
    with pytest.raises((BadInput, BadConfig), match=said):
        train(pairs, out=tmp_path / "run", encoder=static(), config=parse_settings(settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("also", "where"), [([], "loss.name=triplet"), (["loss.also=triplet:1", "loss.name=cosent"], "loss triplet")]
)
def test_a_loss_of_hard_negatives_is_refused_where_no_pair_has_any(also, where, tmp_path):
    pairs = [p.with_negatives() for p in rich_pairs()]
    settings = parse_settings(also or ["loss.name=triplet"])
    with pytest.raises(BadInput, match=rf"{where}: 10 of 10 pairs have no hard negatives .*nearfar mine.*'negatives'"):
        train(pairs, out=tmp_path / "run", encoder=static(), config=settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [["loss.name=margin_mse"], ["loss.name=score_kl"], ["loss.name=triplet"], ["loss.name=cosent", "loss.also=triplet:1"]],
)
def test_pairs_without_hard_negatives_are_left_out_and_counted_and_the_weights_are_those_of_the_others(settings, tmp_path):
    pairs = rich_pairs()
    bare = [p if i % 3 else p.with_negatives() for i, p in enumerate(pairs)]
    others = [p for i, p in enumerate(pairs) if i % 3]
    config = parse_settings(["batch_size=4", "epochs=2", *settings])
    heard = []

    def hear(_stage, _done, _total, **facts):
        heard.append(facts.get("note"))

    found = train(bare, out=tmp_path / "run", encoder=static(), config=config, progress=hear)
    assert [said for said in heard if said][:1] == [
        "4 of 10 pairs to train on have no hard negatives, and the loss learns from these: left out"
    ]
    assert (found.pairs, json.loads((tmp_path / "run" / "run.json").read_text())["without_negatives"]) == (6, 4)
    alone = train(others, out=tmp_path / "alone", encoder=static(), config=config)
    assert load_encoder(found.run).fingerprint() == load_encoder(alone.run).fingerprint() != static().fingerprint()


def test_pairs_without_hard_negatives_stay_where_their_own_loss_takes_them_from_the_batch(tmp_path):
    pairs = [replace(p, source="ab"[i % 2], score=None) for i, p in enumerate(rich_pairs() * 2)]
    bare = [p.with_negatives() if i < 6 else p for i, p in enumerate(pairs)]
    config = parse_settings(["batch_size=4", "epochs=1", "mixture.losses=b:triplet", "mixture.one_source=true"])
    assert train(bare, out=tmp_path / "run", encoder=static(), config=config).pairs == 20 - 3


def test_scores_that_are_all_equal_are_refused():
    with pytest.raises(BadInput, match=r"all 10 scores are 0\.5"):
        check_objective([replace(p, score=0.5) for p in rich_pairs()], parse_settings(["loss.name=cosent"]))


def test_dimensions_the_encoder_does_not_have_are_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"loss\.dims=64,8: this encoder has 16"):
        train(tiny_pairs(60), out=tmp_path / "run", encoder=static(), config=parse_settings(["loss.dims=64,8"]))


def static(seed=0, dim=16):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(table, tiny_tokenizer())


def scored_pairs(count=160):
    """Half of them belong together (1), half are shuffled (0), each with two hard negatives."""
    made, others = tiny_pairs(count), tiny_pairs(count, seed=5)
    return [
        Pair(p.query, p.positive if i % 2 else o.positive, (o.query, made[i - 1].positive), None, float(i % 2))
        for i, (p, o) in enumerate(zip(made, others, strict=True))
    ]


SMALL = ["batch_size=16", "epochs=2", "learning_rate=0.05", "evaluation.dev=20", "evaluation.judge=30"]


def lines(run):
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", sorted(n for n, e in LOSSES.items() if e.needs))
def test_a_run_learns_by_each_loss_that_asks_something_of_the_pairs(name, tmp_path):
    static(3).save(tmp_path / "wise")
    asked = [f"loss.{each}={tmp_path / 'wise'}" for each in ("guide", "teacher") if each in LOSSES[name].reads]
    settings = [*SMALL, f"loss.name={name}", *asked]
    pairs = scored_pairs()
    if not LOSSES[name].needs & {"score", "label"}:
        pairs = [replace(p, score=None) for p in pairs]
    result = train(pairs, out=tmp_path / "run", encoder=static(), config=parse_settings([*settings, "epochs=4"]))
    told = lines(tmp_path / "run")
    assert len(told) == result.steps
    first, last = (np.mean([line["loss"] for line in part]) for part in (told[:5], told[-5:]))
    assert last < first


def test_what_a_loss_learns_itself_is_kept_in_checkpoints_and_a_run_goes_on_bit_for_bit(tmp_path):
    pairs = [replace(p, source="ab"[i % 2]) for i, p in enumerate(tiny_pairs(160))]
    settings = ["loss.name=siglip", "learn_temperature=true", "mixture.loss_temperatures=a:0.2", "checkpoint.every=3"]
    config = parse_settings([*SMALL, *settings, "mixture.temperature=2"])
    train(pairs, out=tmp_path / "alone", encoder=static(), config=config)
    with pytest.raises(StoppedError):
        train(pairs, out=tmp_path / "cut", encoder=static(), config=config, progress=stop_at(8))
    train(pairs, out=tmp_path / "cut", encoder=static(), config=config, resume=True)
    ends = [latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("alone", "cut")]
    a, b = (end.tensors for end in ends if end is not None)
    assert {"weights/siglip_bias", "weights/log_temperature", "weights/log_temperature/a"} <= a.keys()
    assert float(a["weights/siglip_bias"]) != -10
    assert all(torch.equal(a[name], b[name]) for name in a)
    told = lines(tmp_path / "cut")
    assert told == lines(tmp_path / "alone")
    assert {line["source"] for line in told} == {"a", "b"}
    assert told[0]["temperature"] == pytest.approx(0.2 if told[0]["source"] == "a" else 0.05)
    model = "model/model.safetensors"
    assert hash_file(tmp_path / "alone" / model) == hash_file(tmp_path / "cut" / model)


def test_a_source_may_have_a_loss_and_a_temperature_of_its_own(tmp_path):
    graded = [replace(p, negatives=(), source="graded") for p in scored_pairs(100)]
    plain = [replace(p, source="plain") for p in tiny_pairs(100, seed=9)]
    config = parse_settings([*SMALL, "mixture.losses=graded:cosent", "mixture.loss_temperatures=plain:0.1"])
    train([*graded, *plain], out=tmp_path / "run", encoder=static(), config=config)
    told = lines(tmp_path / "run")
    assert {(line["source"], line["temperature"]) for line in told} == {("graded", 0.05), ("plain", 0.1)}
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["config"]["mixture"]
    assert kept["one_source"] is True


def test_a_teacher_is_asked_once_and_only_for_pairs_without_its_scores(tmp_path):
    pairs = rich_pairs()
    pairs[2] = replace(pairs[2], teacher_scores=())
    encoder = static()
    taught = taught_pairs(tmp_path, encoder, pairs, lambda *a, **k: None)
    assert [t.teacher_scores for t in taught[:2]] == [p.teacher_scores for p in pairs[:2]]
    assert taught[2].teacher_scores == pytest.approx(teacher_scores(encoder, [pairs[2]]).tolist())
    (tmp_path / "teacher.npy").stat()
    again = taught_pairs(tmp_path, static(8), pairs, lambda *a, **k: None)
    assert again == taught


def test_a_single_score_is_the_margin_of_a_single_negative(tmp_path):
    pairs = [Pair("q", "p", ("n",), score=3.5)]
    assert taught_pairs(tmp_path, None, pairs, lambda *a, **k: None)[0].teacher_scores == (3.5, 0.0)


def test_a_run_does_not_go_on_with_another_teacher(tmp_path):
    static(3).save(tmp_path / "wise")
    pairs = [replace(p, score=None) for p in scored_pairs()]
    config = parse_settings([*SMALL, "loss.name=margin_mse", f"loss.teacher={tmp_path / 'wise'}"])
    train(pairs, out=tmp_path / "run", encoder=static(), config=config)
    static(4).save(tmp_path / "wise")
    with pytest.raises(Mismatch, match="the guide or teacher"):
        train(pairs, out=tmp_path / "run", encoder=static(), config=config, resume=True)


def test_pairs_of_low_grade_are_not_what_a_held_out_query_should_find(tmp_path):
    pairs = [replace(p, score=i % 6 / 5, negatives=()) for i, p in enumerate(tiny_pairs(160))]
    result = train(pairs, out=tmp_path / "run", encoder=static(), config=parse_settings([*SMALL, "loss.name=cosent"]))
    assert result.task is not None
    low = {p.query for p in pairs if p.score is not None and p.score < 0.75}
    assert not low & set(result.task.queries.values())
    assert load_encoder(tmp_path / "run").dim == 16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["loss.guide=minilm"], r"loss\.guide=minilm: .*this run has the loss info_nce\. It is of gist: set loss\.name=gist"),
        (["loss.teacher=minilm"], r"loss\.teacher=minilm: .*margin_mse, score_kl"),
        (["loss.share=0.9", "loss.name=clip"], r"loss\.share=0\.9: .*the loss clip\. It is of positive_aware"),
        (
            ["loss.strength=2", "loss.also=debiased:1"],
            r"loss\.strength=2\.0: .*debiased and info_nce\. It is of hardness_weighted",
        ),
        (["loss.margin=0.3"], r"loss\.margin=0\.3: .*contrastive"),
        (["loss.directions=query_to_query", "loss.name=triplet"], r"loss\.directions=query_to_query: .*info_nce"),
        (["loss.partition=joint"], r"loss\.partition=joint: it is of several directions"),
    ],
)
def test_a_setting_that_no_loss_of_the_run_reads_is_refused_with_the_loss_that_would(settings, said):
    with pytest.raises(BadConfig, match=said):
        check_objective(rich_pairs(), parse_settings(settings))


def test_a_setting_read_by_any_loss_of_the_run_passes_and_so_do_all_defaults():
    for name, entry in LOSSES.items():
        assert unread_settings(parse_settings([f"loss.name={name}"])) == []
        assert entry.reads <= {each.name for each in fields(LossConfig)}
    for settings in (
        ["loss.also=smoothed:0.5", "loss.smoothing=0.2"],
        ["mixture.losses=a:siglip", "loss.bias=-5"],
        ["loss.directions=query_to_candidate,candidate_to_query", "loss.partition=joint"],
        ["loss.name=gist", "loss.guide=minilm", "loss.margin=0.1"],
    ):
        assert unread_settings(parse_settings(settings)) == []
