"""Training on pictures is the ordinary trainer: a cached step is the whole batch's, views are replayed, a killed run goes on bit for bit."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import config_file, hub_folder, pictures
from transformers import CLIPModel

from nearfar import losses
from nearfar.data.collate import collate
from nearfar.data.sampling import PairTable, epoch_batches
from nearfar.encoders import StaticEncoder, adapt, grow, load_encoder, pair_towers, small_image
from nearfar.encoders.pixels import Pixels, read_pixels
from nearfar.errors import BadConfig, BadInput, Missing
from nearfar.exporting import export_folder
from nearfar.files import hash_folder
from nearfar.recipes import RECIPES, run_recipe
from nearfar.training import parse_settings, train
from nearfar.training.caching import accumulate, micro_batches
from nearfar.training.checkpoint import latest_checkpoint
from nearfar.training.lars import Lars
from nearfar.training.objective import Objective, clamp_parameters, new_parameters
from nearfar.training.plan import hold_out
from nearfar.training.settings import OptimizerConfig
from nearfar.training.sources import prepare_items
from nearfar.training.start import pictures_alone
from nearfar.training.step import _sides
from nearfar.types import Pair

from tiny import WORDS, StoppedError, stop_at, tiny_tokenizer, tiny_transformer


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


SIMCLR = ("loss.name=nt_xent", "augment.kind=cifar", "model.projector=simclr", "model.projector_dim=6", "temperature=0.5")


def small(seed=0):
    return small_image(16, widths=(8, 16), seed=seed)


def table(seed=0, dim=12):
    tokenizer = tiny_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    return StaticEncoder(torch.randn(tokenizer.get_vocab_size(), dim, generator=generator), tokenizer)


def captioned(count, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(WORDS[int(i)] for i in rng.permutation(len(WORDS))[:3]) + f" {n}" for n in range(count)]
    return [Pair(text, picture) for text, picture in zip(texts, pictures(count, seed), strict=True)]


def views(count):
    return [Pair(picture, picture) for picture in pictures(count)]


def towers(folder, kind):
    if kind == "two views":
        return adapt(grow(small(), projector="simclr", projector_dim=6), augment="simclr")
    if kind == "resnet":
        return adapt(load_encoder(f"image:{config_file(folder, 'resnet')}"), augment="cifar")
    text = table() if kind == "table" else load_encoder(tiny_transformer(folder / "text"))
    return adapt(pair_towers(small(), text, dim=10), augment="light")


def gradients(encoder):
    return {n: p.grad.to_dense().clone() for n, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["two views", "resnet", "table", "transformer"])
def test_a_cached_step_is_one_graph_over_the_same_views_in_every_gradient_whatever_is_kept(kind, tmp_path):
    encoder = towers(tmp_path, kind).train()
    given = captioned(12) if kind in ("table", "transformer") else views(12)
    pairs = PairTable.build(given)
    batch = collate(pairs, np.arange(12), *prepare_items(encoder, pairs, parse_settings([])))
    sides, order = _sides(encoder, [batch.queries, batch.candidates])

    def loss(rows):
        both = torch.cat(list(rows))[order]
        return losses.clip(both[:12], both[12:], temperature=0.1).mean()

    found = []
    for keep in (0, 60_000, 1 << 40):
        encoder.zero_grad()
        done = accumulate(sides, loss, seed=5, keep_bytes=keep, micro_tokens=50)
        found.append((done, gradients(encoder)))
    assert found[0][0].encoded_twice == found[0][0].micro_batches > 2
    assert found[2][0].encoded_twice == 0
    encoder.zero_grad()
    rows, number = [], 0
    with torch.random.fork_rng(devices=[]):
        for side in sides:
            parts, made = micro_batches(side.inputs, 50, pads=side.pads), []
            for part in parts:
                torch.manual_seed(5 + number)
                made.append(side.encode(side.inputs.select(part)))
                number += 1
            rows.append(torch.cat(made)[torch.from_numpy(np.argsort(np.concatenate(parts)))])
    value = loss(rows)
    value.backward()
    wanted = gradients(encoder)
    for done, gradient in found:
        assert done.loss == pytest.approx(float(value.detach()), abs=1e-6)
        assert gradient.keys() == wanted.keys()
        assert {name for name, _ in encoder.named_parameters() if "pooler" not in name} == wanted.keys()
        assert all(torch.equal(gradient[name], found[0][1][name]) for name in gradient)
        for name in wanted:
            torch.testing.assert_close(gradient[name], wanted[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("two views", [*SIMCLR, "optimizer.name=lars", "learning_rate=0.3"]),
        ("queue", ["queue.size=20", "queue.momentum=0.9", "augment.kind=simclr", "model.projector=simclr2"]),
        ("captions", ["loss.name=siglip", "learn_temperature=true", "temperature=0.1", "augment.kind=light"]),
        ("locked", ["loss.name=clip", "model.freeze=image.model.*", "optimizer.scale=text.*:3"]),
    ],
)
def test_a_run_on_pictures_that_was_cut_ends_with_the_bytes_of_one_left_alone(kind, settings, tmp_path):
    pairs = views(24) if kind in ("two views", "queue") else captioned(24)
    encoder = small() if kind in ("two views", "queue") else pair_towers(small(), table(), dim=10)
    own = ["epochs=2", "batch_size=8", "learning_rate=0.01", "checkpoint.every=2", "compute.micro_tokens=64", *settings]
    config = parse_settings(own)
    train(pairs, out=tmp_path / "alone", encoder=encoder, config=config)
    with pytest.raises(StoppedError):
        train(pairs, out=tmp_path / "cut", encoder=encoder, config=config, progress=stop_at(5))
    train(pairs, out=tmp_path / "cut", encoder=encoder, config=config, resume=True)
    ends = [latest_checkpoint(tmp_path / name / "checkpoints")[0].tensors for name in ("alone", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    steps = [(tmp_path / name / "steps.jsonl").read_text() for name in ("alone", "cut")]
    assert steps[0] == steps[1]
    (tmp_path / "alone" / "model" / "README.md").unlink()
    (tmp_path / "cut" / "model" / "README.md").unlink()
    assert hash_folder(tmp_path / "alone" / "model") == hash_folder(tmp_path / "cut" / "model")
    moved = load_encoder(tmp_path / "cut").fingerprint() != load_encoder(tmp_path / "cut" / "start").fingerprint()
    assert moved


def test_one_step_of_a_clip_is_the_step_of_transformers_own_model_by_hand(tmp_path):
    folder, pairs = hub_folder(tmp_path / "clip", "clip"), captioned(8)
    settings = [
        "epochs=1",
        "batch_size=8",
        "learning_rate=0.001",
        "warmup=0",
        "optimizer.schedule=constant",
        "optimizer.clip=0",
    ]
    settings += ["optimizer.weight_decay=0.2", "optimizer.beta2=0.98", "optimizer.epsilon=1e-6", "compute.precision=float32"]
    settings += ["loss.name=clip", "learn_temperature=true", "temperature=0.07", "compute.micro_tokens=20"]
    train(pairs, out=tmp_path / "run", encoder=load_encoder(folder), config=parse_settings(settings))

    model = CLIPModel.from_pretrained(folder).train()
    model.logit_scale.data.fill_(np.log(1 / 0.07))
    ours = load_encoder(folder)
    mean, std = (torch.tensor(x)[:, None, None] for x in (ours.image.mean, ours.image.std))
    pixels = read_pixels([pair.positive for pair in pairs], 16).pixels(torch.device("cpu")).float() / 255
    encoded = [tiny_tokenizer().encode(pair.query).ids for pair in pairs]
    width = max(map(len, encoded))
    ids = torch.tensor([each + [0] * (width - len(each)) for each in encoded])
    seen = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in encoded])
    decayed = [p for p in model.parameters() if p.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": 0.2},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.001, betas=(0.9, 0.98), eps=1e-6)
    loss = model(input_ids=ids, attention_mask=seen, pixel_values=(pixels - mean) / std, return_loss=True).loss
    loss.backward()

    told = json.loads((tmp_path / "run" / "steps.jsonl").read_text().splitlines()[0])
    assert told["loss"] == pytest.approx(float(loss.detach()), abs=2e-6)
    kept = latest_checkpoint(tmp_path / "run" / "checkpoints")[0].tensors
    theirs = {
        **{f"image.model.{n}": p for n, p in model.vision_model.named_parameters()},
        **{f"text.model.{n}": p for n, p in model.text_model.named_parameters()},
        "image.heads.0.linear.weight": model.visual_projection.weight,
        "text_heads.0.linear.weight": model.text_projection.weight,
    }
    assert {f"weights/{name}" for name in theirs} | {"weights/log_temperature"} == {n for n in kept if n.startswith("weights/")}
    for name, parameter in theirs.items():  # after one step the mean of gradients is a tenth of the gradient
        torch.testing.assert_close(kept[f"mean/{name}"] * 10, parameter.grad, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(kept["mean/log_temperature"] * 10, -model.logit_scale.grad, rtol=1e-3, atol=1e-6)
    optimizer.step()
    for name, parameter in theirs.items():
        # where a gradient is nothing but rounding, AdamW makes a whole step of it
        sure = parameter.grad.abs() > 1e-5 if parameter.grad is not None else slice(None)
        torch.testing.assert_close(kept[f"weights/{name}"][sure], parameter.data[sure], rtol=0, atol=1e-5)
    assert float(kept["weights/log_temperature"]) == pytest.approx(-float(model.logit_scale.detach()), abs=1e-6)
    saved = CLIPModel.from_pretrained(tmp_path / "run" / "model")
    torch.testing.assert_close(saved.visual_projection.weight, kept["weights/image.heads.0.linear.weight"])
    assert float(saved.logit_scale.detach()) == pytest.approx(-float(kept["weights/log_temperature"]))


def rows_of(pairs, settings, seed=0, dim=5):
    config = parse_settings(settings)
    store = Pixels(np.zeros((1, 3, 8, 8), np.uint8), np.zeros(1, np.int64))
    made = PairTable.build(pairs)
    zeros = store.select(np.zeros(len(pairs), np.int64))
    batch = collate(made, np.arange(len(pairs)), zeros, zeros)
    generator = torch.Generator().manual_seed(seed)
    rows = [
        F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1).requires_grad_()
        for n in (len(pairs), len(batch.candidates))
    ]
    return rows, batch, Objective(config)(*rows, batch, new_parameters(config, torch.device("cpu")))


def test_nt_xent_by_name_is_the_papers_over_both_views():
    (a, b), _, found = rows_of(views(6), ["loss.name=nt_xent", "temperature=0.3"])
    torch.testing.assert_close(found, losses.nt_xent(a, b, temperature=0.3).mean())
    logits = torch.cat([a, b]) @ torch.cat([a, b]).T / 0.3
    wanted = [torch.logsumexp(torch.cat([logits[i, :i], logits[i, i + 1 :]]), 0) - logits[i, (i + 6) % 12] for i in range(12)]
    torch.testing.assert_close(found, torch.stack(wanted).mean())


def test_nt_xent_leaves_out_views_of_the_same_group():
    pairs = [replace(pair, group="ab"[n % 2]) for n, pair in enumerate(views(6))]
    (a, b), _, found = rows_of(pairs, ["loss.name=nt_xent", "temperature=0.3"])
    rows = torch.cat([a, b])
    logits = rows @ rows.T / 0.3
    wanted = []
    for i in range(12):
        columns = [j for j in range(12) if j == (i + 6) % 12 or (i % 6) % 2 != (j % 6) % 2]
        wanted.append(torch.logsumexp(logits[i, columns], 0) - logits[i, (i + 6) % 12])
    torch.testing.assert_close(found, torch.stack(wanted).mean())


def test_sup_con_by_name_takes_groups_for_labels_and_meets_them_in_one_batch():
    pairs = [replace(pair, group="abc"[n % 3]) for n, pair in enumerate(views(12))]
    (a, b), _, found = rows_of(pairs, ["loss.name=sup_con", "temperature=0.2"])
    labels = torch.arange(12) % 3
    torch.testing.assert_close(found, losses.sup_con(torch.cat([a, b]), torch.cat([labels, labels]), temperature=0.2).mean())
    made = PairTable.build(pairs)
    apart, together = (epoch_batches(made, 6, seed=0, epoch=0, groups_apart=flag) for flag in (True, False))
    assert [len(batch) for batch in together] == [6, 6]
    assert max(len(batch) for batch in apart) != min(len(batch) for batch in apart) or len(apart) != 2


def test_align_is_label_smoothing_both_ways_and_leaves_out_what_is_known_to_be_alike():
    some = captioned(6)
    pairs = [
        *some[:5],
        replace(some[5], group="g"),
        Pair("other words", some[0].positive),
        Pair("more words", some[2].positive, group="g"),
    ]
    (a, b), batch, found = rows_of(pairs, ["loss.name=align", "temperature=0.3", "loss.smoothing=0.2"])
    own = batch.targets.positive
    logits = a @ b[own].T / 0.3
    alike = torch.tensor(
        [
            [i != j and (p.positive == q.positive or (p.group is not None and p.group == q.group)) for j, q in enumerate(pairs)]
            for i, p in enumerate(pairs)
        ]
    )
    total = 0.0
    for one in (logits, logits.T):
        kept = one.masked_fill(alike, -torch.inf)
        mean = torch.where(alike, 0.0, one).sum(1) / (~alike).sum(1)
        total = total + (kept.logsumexp(1) - 0.8 * one.diagonal() - 0.2 * mean).mean()
    torch.testing.assert_close(found, total / 2)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_captions_of_one_picture_and_pictures_of_one_caption_are_never_each_others_negatives(name):
    some = captioned(6)
    pairs = [
        *some,
        Pair("other words", some[0].positive),
        Pair("more words", some[0].positive),
        Pair(some[1].query, pictures(9)[8]),
    ]
    (a, b), batch, found = rows_of(pairs, [f"loss.name={name}", "temperature=0.3"])
    own, n = batch.targets.positive, len(pairs)
    assert len(b) == 7  # a picture of several captions is one column
    shown = [next(p.positive for p, place in zip(pairs, own.tolist(), strict=True) if place == column) for column in range(7)]
    logits = a @ b.T / 0.3
    # a picture is no negative of a caption that any pair gives it
    given = {(p.query, p.positive) for p in pairs}
    alike = torch.tensor(
        [[(p.query, picture) in given and own[i] != j for j, picture in enumerate(shown)] for i, p in enumerate(pairs)]
    )
    captions = torch.tensor(
        [
            [i != j and (p.positive == q.positive or p.query == q.query) for j, q in enumerate(pairs)]
            for i, p in enumerate(pairs)
        ]
    )
    mine = logits[torch.arange(n), own]
    if name == "clip":
        there = logits.masked_fill(alike, -torch.inf).logsumexp(1) - mine
        back = logits.T[own].masked_fill(captions, -torch.inf).logsumexp(1) - mine
        torch.testing.assert_close(found, (there + back).mean() / 2)
    else:  # Zhai 2023, eq. 1: every caption with every picture a yes or a no
        sign = torch.full_like(logits, -1.0)
        sign[torch.arange(n), own] = 1.0
        each = -F.logsigmoid(sign * (logits - 10)).masked_fill(alike, 0.0)
        torch.testing.assert_close(found, each.sum() / n)


def test_a_queue_follows_the_slow_copy_and_is_met_by_the_next_batch(tmp_path):
    pairs = views(8)
    settings = ["epochs=1", "batch_size=8", "learning_rate=0.01", "queue.size=12", "queue.momentum=0.75", "warmup=0"]
    start = small()
    train(pairs, out=tmp_path / "one", encoder=start, config=parse_settings([*settings, "optimizer.schedule=constant"]))
    kept = latest_checkpoint(tmp_path / "one" / "checkpoints")[0].tensors
    for name, before in start.named_parameters():
        torch.testing.assert_close(kept[f"slow/{name}"], 0.75 * before.detach() + 0.25 * kept[f"weights/{name}"])
    first = start.train()(
        start.prepare([pair.positive for pair in pairs])
    ).detach()  # the copy was the start, and nothing is augmented
    held = kept["queue/bank"][:8]
    assert int(kept["queue/pushed"]) == 8
    torch.testing.assert_close((held @ first.T).max(dim=1).values, torch.ones(8))
    both = (tmp_path / "two",)
    train(pairs, out=both[0], encoder=start, config=parse_settings([*settings, "epochs=2", "optimizer.schedule=constant"]))
    told = [json.loads(line)["loss"] for line in (both[0] / "steps.jsonl").read_text().splitlines()]
    assert int(latest_checkpoint(both[0] / "checkpoints")[0].tensors["queue/pushed"]) == 16
    # a picture's own older rows in the queue are no negatives: only 7 others and their 7 older rows are
    after = load_encoder(tmp_path / "one").train()
    slow = copy.deepcopy(after)
    slow.load_state_dict({name.removeprefix("slow/"): tensor for name, tensor in kept.items() if name.startswith("slow/")})
    inputs = after.prepare([pair.positive for pair in pairs])
    with torch.no_grad():
        queries, keys = after(inputs), slow(inputs)
    wanted = 0.0
    for i in range(8):
        others = [row for row in held if float(row @ first[i]) < 1 - 1e-5]
        assert len(others) == 7
        wanted += float(
            F.cross_entropy(
                (torch.stack([keys[i], *(keys[j] for j in range(8) if j != i), *others]) @ queries[i] / 0.05)[None],
                torch.zeros(1, dtype=torch.long),
            )
        )
    assert told[1] == pytest.approx(wanted / 8, abs=1e-3)
    with pytest.raises(BadConfig, match=r"queue\.size"):
        parse_settings(["queue.size=8", "loss.name=clip"])


def test_lars_is_the_papers_step_layer_by_layer():
    generator = torch.Generator().manual_seed(0)
    matrix, vector = (torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((4, 3), (4,)))
    w, v, speed = matrix.detach().clone(), vector.detach().clone(), {"w": 0.0, "v": 0.0}
    optimizer = Lars({"w": matrix, "v": vector}, OptimizerConfig(weight_decay=0.1, clip=0, momentum=0.8, trust=0.01))
    for rate in (1.0, 0.5, 0.2):
        g, h = torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator)
        matrix.grad, vector.grad = g.clone(), h.clone()
        optimizer.step(rate)
        push = g + 0.1 * w
        speed["w"] = 0.8 * speed["w"] + rate * 0.01 * w.norm() / push.norm() * push
        speed["v"] = 0.8 * speed["v"] + rate * h
        w, v = w - speed["w"], v - speed["v"]
        torch.testing.assert_close(matrix.data, w)
        torch.testing.assert_close(vector.data, v)


def test_a_learned_temperature_stops_at_its_bound():
    config = parse_settings(["learn_temperature=true", "temperature=0.07"])
    parameters = new_parameters(config, torch.device("cpu"))
    parameters["log_temperature"].data.fill_(np.log(0.002))
    clamp_parameters(parameters, config)
    assert float(parameters["log_temperature"].detach().exp()) == pytest.approx(0.01)
    with pytest.raises(BadConfig, match="lowest_temperature"):
        parse_settings(["learn_temperature=true", "temperature=0.005"])


def test_two_views_of_a_thing_hold_nothing_out_and_are_decoded_once():
    plan = hold_out(views(60), parse_settings([]), dev=None, task=None)
    assert (len(plan.pairs), plan.dev, plan.task) == (60, None, None)
    queries, documents = prepare_items(small(), PairTable.build(views(5)), parse_settings([]))
    assert queries is documents


def test_captions_held_out_judge_a_run_and_find_pictures(tmp_path):
    result = train(
        captioned(60),
        out=tmp_path / "run",
        encoder=pair_towers(small(), table(), dim=10),
        config=parse_settings(
            ["epochs=1", "batch_size=16", "learning_rate=0.01", "loss.name=clip", "evaluation.outside_texts=0"]
        ),
    )
    assert result.verdict in ("improved", "not shown", "worse")
    assert result.start is not None
    assert len(result.start.query_ids) == 6
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "pictures and texts" in card
    assert "sentence-transformers" not in card
    with pytest.raises(BadInput, match="sees pictures"):
        export_folder(load_encoder(tmp_path / "run"), tmp_path / "out", name=tmp_path / "run")


def test_an_encoder_of_pictures_alone_takes_a_caption_or_a_label_for_another_view():
    text, both = captioned(2), views(1)
    found = pictures_alone([replace(text[0], group="a", negatives=("words", text[1].positive)), *both])
    assert found[0] == Pair(text[0].positive, text[0].positive, (text[1].positive,), group="a")
    assert found[1] is both[0]
    with pytest.raises(BadInput, match="sees pictures alone"):
        pictures_alone([Pair("words", "more words")])


def test_what_is_watched_by_labels_is_in_the_log_and_a_cut_run_says_the_same(tmp_path):
    for number, picture in enumerate(pictures(12, seed=3)):
        folder = tmp_path / "labelled" / f"class {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(picture.read())
    settings = ["epochs=2", "batch_size=8", "learning_rate=0.01", "evaluation.every=2", *SIMCLR]
    config = parse_settings([*settings, f"watch.labels={tmp_path / 'labelled'}"])
    notes = []
    train(
        views(16),
        out=tmp_path / "run",
        encoder=small(),
        config=config,
        progress=lambda *a, **facts: notes.append(facts.get("note")),
    )
    told = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert ["knn_20" in line or "effective_rank" in line for line in told] == [False, True, False, True]
    assert 1 <= told[-1]["effective_rank"] <= 16
    assert any(note and "effective_rank" in note for note in notes)


def test_a_recipe_of_pictures_makes_its_views_and_refuses_what_has_no_pictures(tmp_path):
    quick = ["epochs=1", "batch_size=8", "learning_rate=0.001"]
    small().save(tmp_path / "tower")
    result = run_recipe(RECIPES["simclr"], captioned(12), out=tmp_path / "views", encoder=tmp_path / "tower", settings=quick)
    assert result.verdict == "not judged"
    assert load_encoder(tmp_path / "views").projector
    pair_towers(small(), table(), dim=10).save(tmp_path / "pair")
    for name in ("clip", "siglip", "align", "lit"):
        own = ["evaluation.dev=0", "evaluation.judge=10", *quick]
        found = run_recipe(RECIPES[name], captioned(50), out=tmp_path / name, encoder=tmp_path / "pair", settings=own)
        assert found.verdict in ("improved", "not shown", "worse")
        start, end = (load_encoder(found.folders[0] / part).image.model.state_dict() for part in ("start", "model"))
        assert all(torch.equal(start[key], end[key]) for key in start) == (name == "lit" or found.stages[0].best_step == 0)
    with pytest.raises(Missing, match="learns from pictures"):
        run_recipe(RECIPES["simclr"], [Pair("a", "b"), Pair("c", "d")], out=tmp_path / "none", encoder=tmp_path / "tower")
    with pytest.raises(Missing, match="an image and a text tower"):
        run_recipe(RECIPES["clip"], captioned(12), out=tmp_path / "wrong", encoder=tmp_path / "tower", settings=quick)
