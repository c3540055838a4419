"""Image towers: what one saves opens to the same rows, what is prepared is picked without a copy, and a locked tower works once."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import TOWERS, config_file, hub_folder, pictures
from transformers import AutoModel, CLIPModel, SiglipModel

from nearfar.data.pictures import decode
from nearfar.embedding import embed
from nearfar.encoders import (
    ImageEncoder,
    ImageTextEncoder,
    StaticEncoder,
    Tokens,
    adapt,
    computing,
    grow,
    load_encoder,
    pair_towers,
    small_image,
)
from nearfar.encoders.pixels import Kept, Mixed, Pixels, join, mix, read_pixels
from nearfar.encoders.small_net import SmallNet
from nearfar.errors import BadConfig, BadInput, Damaged
from nearfar.types import Picture

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["the cat", "dog bird fish and a red house", "tree"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def small(seed=0):
    return small_image(16, widths=(8, 16), seed=seed)


def table(seed=0, dim=12):
    tokenizer = tiny_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    return StaticEncoder(torch.randn(tokenizer.get_vocab_size(), dim, generator=generator), tokenizer)


def towers(folder, kind):
    text = table() if kind == "table" else load_encoder(tiny_transformer(folder / "text"))
    return pair_towers(small(), text, dim=20)


def test_pixels_are_the_decoded_pictures_and_selecting_copies_none():
    some = pictures(3)
    found = read_pixels(some, 16)
    for number, picture in enumerate(some):
        assert (found.values[found.rows[number]] == decode(picture, 16).transpose(2, 0, 1)).all()
    chosen = found.select(np.array([2, 0, 2]))
    assert chosen.values is found.values
    assert (chosen.pixels(torch.device("cpu")).numpy() == found.values[found.rows[[2, 0, 2]]]).all()


def test_a_picture_counts_as_its_patches_where_batches_are_cut_by_tokens():
    encoder = small_image(32)
    assert encoder.prepare(pictures(2)).lengths.tolist() == [64, 64]


def test_joined_inputs_come_back_in_the_order_they_were_given():
    pixels = read_pixels(pictures(4), 8)
    tokens = Tokens.of([[1], [2, 2], [3]])
    mixed = mix([(pixels.select(np.array([3, 1])), np.array([0, 2])), (tokens, np.array([1, 3, 4]))], 5)
    assert isinstance(mixed, Mixed)
    given = [mixed.select(np.array([4, 0, 1, 2])), tokens, pixels]
    kinds, order = join(given)
    assert [type(kind) for kind in kinds] == [Pixels, Tokens]

    def marks(part):
        if isinstance(part, Pixels):
            return [f"p{row}" for row in part.rows]
        return [f"t{part.ids[start]}" for start in part.offsets[:-1]]

    flat = [mark for kind in kinds for mark in marks(kind)]
    assert [flat[i] for i in order] == ["t3", "p3", "t1", "p1", "t1", "t2", "t3", "p0", "p1", "p2", "p3"]
    assert mixed.lengths.tolist() == [1, 1, 1, 2, 1]


@pytest.mark.parametrize("kind", ["small", *TOWERS])
def test_a_saved_image_encoder_opens_to_the_same_rows(kind, tmp_path):
    made = small() if kind == "small" else load_encoder(f"image:{config_file(tmp_path, kind)}")
    grown = grow(made, head="linear", head_dim=10, projector="simclr", projector_dim=6, seed=1)
    some = pictures(5)
    grown.save(tmp_path / "saved")
    opened = load_encoder(tmp_path / "saved")
    assert isinstance(opened, ImageEncoder)
    assert (opened.dim, opened.training_dim) == (10, 6)
    assert (embed(opened, some) == embed(grown, some)).all()
    assert opened.fingerprint() == grown.fingerprint() != made.fingerprint()
    with torch.no_grad():
        assert (opened.train()(opened.prepare(some)) == grown.train()(grown.prepare(some))).all()


def test_a_fresh_tower_is_a_function_of_its_name_and_its_seed(tmp_path):
    path = config_file(tmp_path, "vit")
    for name in ("small-image:16", f"image:{path}"):
        prints = [load_encoder(name, seed=seed).fingerprint() for seed in (0, 0, 1)]
        assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("kind", ["table", "transformer"])
def test_pictures_and_texts_in_any_mixture_are_encoded_as_alone(kind, tmp_path):
    both = towers(tmp_path, kind)
    some = pictures(3)
    mixed = [some[0], TEXTS[0], TEXTS[1], some[1], some[2], TEXTS[2]]
    rows = embed(both, mixed)
    np.testing.assert_allclose(rows[[0, 3, 4]], embed(both, some), atol=1e-6)
    np.testing.assert_allclose(rows[[1, 2, 5]], embed(both, TEXTS), atol=1e-6)
    both.save(tmp_path / "saved")
    opened = load_encoder(tmp_path / "saved")
    assert isinstance(opened, ImageTextEncoder)
    assert (embed(opened, mixed) == rows).all()
    assert opened.fingerprint() == both.fingerprint()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_of_transformers_gives_the_rows_it_gives_there_and_saves_back_as_what_it_was(kind, tmp_path):
    folder = hub_folder(tmp_path / kind, kind)
    ours = load_encoder(folder)
    theirs = (CLIPModel if kind == "clip" else SiglipModel).from_pretrained(folder).eval()
    some = pictures(3)
    mean, std = (torch.tensor(x)[:, None, None] for x in (ours.image.mean, ours.image.std))
    pixels = (read_pixels(some, 16).pixels(torch.device("cpu")).float() / 255 - mean) / std
    encoded = [tiny_tokenizer().encode(text).ids for text in TEXTS]
    width = 10 if kind == "siglip" else max(map(len, encoded))
    ids = torch.tensor([each + [0] * (width - len(each)) for each in encoded])
    told = (
        {} if kind == "siglip" else {"attention_mask": torch.tensor([[1] * len(e) + [0] * (width - len(e)) for e in encoded])}
    )
    with torch.no_grad():
        found = theirs(input_ids=ids, pixel_values=pixels, **told)
    np.testing.assert_allclose(embed(ours, some), F.normalize(found.image_embeds, dim=1).numpy(), atol=2e-6)
    np.testing.assert_allclose(embed(ours, TEXTS), F.normalize(found.text_embeds, dim=1).numpy(), atol=2e-6)
    ours.save(tmp_path / "back")
    back = (CLIPModel if kind == "clip" else SiglipModel).from_pretrained(tmp_path / "back").state_dict()
    assert {name: tensor.tolist() for name, tensor in back.items()} == {n: t.tolist() for n, t in theirs.state_dict().items()}
    assert load_encoder(tmp_path / "back").fingerprint() == ours.fingerprint()
    alone = load_encoder(f"image:{folder}")
    np.testing.assert_allclose(embed(alone, some), embed(ours, some), atol=1e-6)


def test_a_vision_model_of_transformers_opens_from_its_plain_folder(tmp_path):
    for kind, config in TOWERS.items():
        AutoModel.from_config(config).save_pretrained(tmp_path / kind)
        found = load_encoder(tmp_path / kind)
        assert isinstance(found, ImageEncoder), kind
        assert np.isfinite(embed(found, pictures(2))).all(), kind


def test_a_locked_tower_encodes_each_item_once_and_its_rows_are_the_same(tmp_path):
    both = towers(tmp_path, "transformer")
    some = pictures(4)
    before = embed(both, [*some, *TEXTS])
    adapt(both, freeze=["image.model.*", "text.*"])
    assert both.locked == ("image", "text")
    calls = []
    for tower in (both.image.model, both.text.model):
        tower.register_forward_hook(lambda module, given, made: calls.append(type(module).__name__))
    whole = embed(both, [*some, *TEXTS])
    np.testing.assert_allclose(whole, before, atol=1e-6)
    first = len(calls)
    assert first > 0 or both.text.is_packed
    inputs = both.prepare(some[::-1])
    assert isinstance(inputs, Kept)
    np.testing.assert_allclose(both(inputs).detach().numpy(), before[:4][::-1], atol=1e-6)
    assert len(calls) == first
    with torch.no_grad():
        both.image.model.down[0][1].weight[0].mul_(3)
    assert np.abs(embed(both, some) - before[:4]).max() > 1e-4  # what was kept is of other weights


def test_a_view_is_seen_in_training_only_and_replaying_the_generator_replays_it():
    encoder = adapt(small(), augment="simclr")
    inputs = encoder.prepare(pictures(6))
    plain = small()(inputs)
    assert torch.equal(encoder.eval()(inputs), plain)
    encoder.train()
    seen = []
    with torch.random.fork_rng():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            seen.append(encoder(inputs).detach())
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], plain)


def test_statistics_of_batches_stay_as_loaded_so_a_picture_is_encoded_as_alone_in_training_too(tmp_path):
    AutoModel.from_config(TOWERS["resnet"]).save_pretrained(tmp_path / "resnet")
    encoder = load_encoder(tmp_path / "resnet").train()
    kept = copy.deepcopy(dict(encoder.model.named_buffers()))
    inputs = encoder.prepare(pictures(4))
    together = encoder(inputs)
    alone = torch.cat([encoder(inputs.select(np.array([i]))) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(kept[name], buffer) for name, buffer in encoder.model.named_buffers())


def test_bfloat16_rows_are_near_those_of_float32():
    encoder = small()
    some = pictures(8)
    with computing(encoder, "bfloat16"):
        lower = embed(encoder, some)
    assert (lower * embed(encoder, some)).sum(axis=1).min() > 0.999
    assert encoder.dtype is None


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("small-image:big", BadConfig, "small-image:SIZE"),
        ("clip:small-image", BadInput, r"clip:IMAGE\+TEXT"),
        ("clip:static:none+small-image", BadInput, "."),
        ("small-image:7", BadConfig, "small-image:7: expected .* 8 or more"),
        ("image:nosuch.json", BadInput, "nosuch.json: no such file"),
    ],
)
def test_a_name_that_cannot_be_says_what_is_expected(name, error, said):
    with pytest.raises(error, match=said):
        load_encoder(name)


def test_what_cannot_be_encoded_is_named(tmp_path):
    with pytest.raises(BadInput, match="this names no file"):
        small().prepare(["a red bicycle"])
    with pytest.raises(BadInput, match=r"one\.png"):
        small().prepare([Picture("one.png", data=b"no picture")])
    with pytest.raises(BadInput, match="encoder reads text"):
        table().prepare(pictures(1))
    with pytest.raises(BadConfig, match="sees no pictures"):
        adapt(table(), augment="light")
    with pytest.raises(BadConfig, match=r"model\.dropout"):
        adapt(small(), dropout=0.1)
    with pytest.raises(BadInput, match="width"):
        ImageTextEncoder(small(), table(dim=5))
    made = small()
    made.save(tmp_path / "torn")
    weights = tmp_path / "torn" / "image" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        load_encoder(tmp_path / "torn")


@pytest.mark.parametrize("side", [16, 15, 32])
@pytest.mark.parametrize("lower", [False, True])
def test_the_small_network_has_the_gradients_of_plain_convolutions(side, lower):
    dtype = torch.float32 if lower else torch.float64
    net = SmallNet((8, 16, 24, 32), seed=3).to(dtype)
    pixels = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)

    def plain(maps):
        for down, across in zip(net.down, net.across, strict=True):
            for number, (layer, stride) in enumerate(((down, 2), (across, 1))):
                made = torch.relu(layer[1](torch.nn.functional.conv2d(maps, layer[0].weight, stride=stride, padding=1)))
                maps = maps + made if number else made
        return maps.flatten(2).mean(dim=2)

    def gradients(run):
        given = pixels.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            rows = run(given)
        return torch.autograd.grad(rows.to(dtype).square().sum(), [given, *net.parameters()])

    for found, wanted in zip(gradients(net), gradients(plain), strict=True):
        assert found.shape == wanted.shape
        off = (found - wanted).norm() / (wanted.norm() + 1e-12)
        assert off < (0.05 if lower else 1e-12)
