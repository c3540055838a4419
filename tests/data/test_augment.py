"""Views: each change is pillow's, each distribution is the paper's, and the generator decides everything."""

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.augment import Augmentation, draw, views
from nearfar.data.distort import blur_, brightness_, contrast_, flip_, grey_, hue_, resize_boxes, saturation_, solarize_
from nearfar.errors import BadConfig, BadInput

Image = pytest.importorskip("PIL.Image", reason="needs pillow")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
ImageOps = pytest.importorskip("PIL.ImageOps")


def pictures(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Noise with a slope over it, uint8 [n, 3, size, size]: dark, light, grey and colourful places."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 200, size)[None, None, None, :] * rng.random((n, 3, 1, 1))
    return torch.from_numpy((slope + rng.integers(0, 56, (n, 3, size, size))).astype(np.uint8))


def image(pixels: torch.Tensor):
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def numbers(picture) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("size", [8, 24, 40])
def test_a_box_is_cut_out_and_resized_as_pillow_does_it(size: int):
    pixels = pictures(6, 24)
    rng = np.random.default_rng(1)
    boxes = []
    for _ in range(6):
        height, width = rng.integers(1, 25, 2)
        boxes.append([int(rng.integers(0, 25 - height)), int(rng.integers(0, 25 - width)), int(height), int(width)])
    found = resize_boxes(pixels, torch.tensor(boxes), size)
    for row, (top, left, height, width) in enumerate(boxes):
        cut = image(pixels[row]).crop((left, top, left + width, top + height))
        expected = numbers(cut.resize((size, size), Image.Resampling.BICUBIC))
        # pillow rounds after each direction, and cuts off there what overshoots
        assert (found[row] - expected).abs().max() <= 4 / 255
        assert (found[row] - expected).abs().mean() <= 0.6 / 255


def test_a_box_beyond_the_picture_is_refused():
    for box in ([0, 0, 9, 8], [-1, 0, 4, 4], [0, 0, 0, 4], [5, 5, 4, 3]):
        with pytest.raises(BadInput, match="boxes"):
            resize_boxes(pictures(1, 8), torch.tensor([box]), 4)


@pytest.mark.parametrize(
    ("change", "enhancer"),
    [(brightness_, ImageEnhance.Brightness), (contrast_, ImageEnhance.Contrast), (saturation_, ImageEnhance.Color)],
)
def test_brightness_contrast_and_saturation_are_pillows(change, enhancer):
    pixels, factors = pictures(5, 16), torch.tensor([0.0, 0.4, 1.0, 1.3, 1.8])
    x = pixels.float() / 255
    change(x, factors)
    for row, factor in enumerate(factors.tolist()):
        expected = numbers(enhancer(image(pixels[row])).enhance(factor))
        assert (x[row] - expected).abs().max() <= (1 + factor) / 255  # pillow rounds the grey, then the result


def test_grey_and_solarize_are_pillows():
    pixels = pictures(3, 16)
    x = pixels.float() / 255
    grey_(x)
    for row in range(3):
        assert (x[row] - numbers(image(pixels[row]).convert("L"))).abs().max() <= 0.51 / 255
    x = pixels.float() / 255
    solarize_(x, 128 / 255)
    for row in range(3):
        torch.testing.assert_close(x[row], numbers(ImageOps.solarize(image(pixels[row]), 128)))


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(-0.5, 0.5))
def test_hue_turns_as_pythons_hsv_does(colour: list[int], turns: float):
    x = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*x.flatten().tolist())
    expected = colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value)
    hue_(x, torch.tensor([turns], dtype=torch.float64))
    assert x.flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_hue_is_pillows_hsv_within_its_rounding():
    pixels = pictures(2, 24)
    for shift in (-100, -20, 7, 90):
        x = pixels.float() / 255
        hue_(x, torch.full((2,), shift / 256))
        for row in range(2):
            hue, saturation, value = image(pixels[row]).convert("HSV").split()
            turned = Image.fromarray((np.asarray(hue).astype(int) + shift).astype(np.uint8))
            expected = numbers(Image.merge("HSV", (turned, saturation, value)))
            assert (x[row] - expected).abs().max() <= 8 / 255
            assert (x[row] - expected).abs().mean() <= 1.2 / 255


@pytest.mark.parametrize("radius", [1, 3, 11])
def test_blur_equals_the_sum_over_a_window_with_mirrored_edges(radius: int):
    x = pictures(3, 16).double() / 255
    sigma = torch.tensor([0.1, 0.8, 2.0], dtype=torch.float64)
    found = x.clone()
    blur_(found, sigma, radius)
    away = torch.arange(-radius, radius + 1, dtype=torch.float64)
    for row in range(3):
        line = torch.exp(-(away**2) / (2 * sigma[row] ** 2))
        line /= line.sum()
        wide = torch.nn.functional.pad(x[row : row + 1], (radius,) * 4, mode="reflect")[0]
        expected = sum(line[i] * line[j] * wide[:, i : i + 16, j : j + 16] for i in range(len(line)) for j in range(len(line)))
        torch.testing.assert_close(found[row], expected, atol=1e-7, rtol=0)


def test_a_flip_mirrors_the_chosen_alone():
    x = pictures(3, 8).float()
    before = x.clone()
    flip_(x, torch.tensor([True, False, True]))
    torch.testing.assert_close(x[1], before[1])
    torch.testing.assert_close(x[[0, 2]], before[[0, 2]].flip(-1))


def test_amounts_of_a_batch_are_those_of_each_picture_alone():
    x = pictures(4, 12).float() / 255
    amounts = torch.tensor([0.2, 0.7, 1.1, 1.6])
    for change in (brightness_, contrast_, saturation_, lambda part, amount: hue_(part, amount - 1.2)):
        together = x.clone()
        change(together, amounts)
        for row in range(4):
            alone = x[row : row + 1].clone()
            change(alone, amounts[row : row + 1])
            torch.testing.assert_close(together[row], alone[0])


# what is drawn


def test_crops_have_the_areas_and_shapes_of_the_paper():
    drawn = draw(20_000, (224, 224), Augmentation.simclr(224), torch.Generator().manual_seed(0))
    top, left, height, width = drawn.boxes.double().unbind(1)
    area, ratio = height * width / 224**2, width / height
    assert area.min() > 0.079
    assert area.max() <= 1
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    assert abs(float(ratio.log().mean())) < 0.01
    # uniform where every shape fits (an area of 3/4 in the widest shape is as wide as the picture)
    low = area[area < 0.7]
    quarters = torch.histc(low, 4, 0.08, 0.7) / len(low)
    assert (quarters - 0.25).abs().max() < 0.02
    assert (top >= 0).all() and (left >= 0).all()  # noqa: PT018 - one claim
    assert (top + height <= 224).all() and (left + width <= 224).all()  # noqa: PT018
    room = (224 - height) > 20
    assert abs(float((top / (224 - height))[room].mean()) - 0.5) < 0.02


def test_amounts_orders_and_chances_are_those_of_the_paper():
    n = 40_000
    drawn = draw(n, (32, 32), Augmentation.simclr(32), torch.Generator().manual_seed(1))
    for share, chosen in ((0.5, drawn.flip), (0.8, drawn.jitter), (0.2, drawn.grey), (0.5, drawn.blur), (0.0, drawn.solarize)):
        assert abs(float(chosen.double().mean()) - share) < 4 * math.sqrt(0.25 / n)
    low, high = drawn.amounts.min(0).values, drawn.amounts.max(0).values
    torch.testing.assert_close(low, torch.tensor([0.2, 0.2, 0.2, -0.2]), atol=2e-3, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.8, 1.8, 1.8, 0.2]), atol=2e-3, rtol=0)
    assert 0.1 <= float(drawn.sigma.min()) < 0.11
    assert 1.99 < float(drawn.sigma.max()) <= 2.0
    orders, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (counts / n - 1 / 24).abs().max() < 0.005


def test_cifars_colours_are_half_as_strong_and_nothing_is_blurred():
    drawn = draw(4_000, (32, 32), Augmentation.cifar(), torch.Generator().manual_seed(2))
    torch.testing.assert_close(drawn.amounts.max(0).values, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=2e-3, rtol=0)
    assert not drawn.blur.any()


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (1, 1), (3, 500)])
def test_a_crop_of_any_picture_lies_within_it(shape: tuple[int, int]):
    boxes = draw(500, shape, Augmentation.simclr(8), torch.Generator().manual_seed(3)).boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= shape[0]).all()
    assert (boxes[:, 1] + boxes[:, 3] <= shape[1]).all()


# views


@pytest.mark.parametrize("augmentation", [Augmentation.simclr(24), Augmentation.cifar(16), Augmentation.light(20)])
def test_one_seed_makes_the_same_views_and_another_others(augmentation: Augmentation):
    pixels = pictures(9, 24)
    first, again, other = (views(pixels, augmentation, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert first.shape == (9, 3, augmentation.size, augmentation.size)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_without_a_generator_the_global_one_decides_and_is_moved():
    pixels = pictures(4, 12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        first, second = views(pixels, Augmentation.cifar(12)), views(pixels, Augmentation.cifar(12))
        torch.manual_seed(7)
        assert torch.equal(views(pixels, Augmentation.cifar(12)), first)
    assert not torch.equal(first, second)
    assert torch.equal(views(pixels, Augmentation.cifar(12), torch.Generator().manual_seed(7)), first)


def test_how_many_are_worked_on_together_changes_nothing(monkeypatch):
    pixels = pictures(12, 16)
    whole = views(pixels, Augmentation.simclr(16), torch.Generator().manual_seed(8))
    monkeypatch.setattr("nearfar.data.augment.AT_ONCE", 1)
    alone = views(pixels, Augmentation.simclr(16), torch.Generator().manual_seed(8))
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


def test_a_view_is_its_drawn_changes_one_after_the_other():
    pixels, augmentation = (
        pictures(40, 16),
        Augmentation(16, (0.3, 1.0), flip=0.5, jitter=0.7, brightness=0.5, hue=0.2, grey=0.3, solarize=0.3),
    )
    drawn = draw(40, (16, 16), augmentation, torch.Generator().manual_seed(9))
    found = views(pixels, augmentation, torch.Generator().manual_seed(9))
    for row in range(40):
        x = resize_boxes(pixels[row : row + 1], drawn.boxes[row : row + 1], 16)
        x = x.flip(-1) if drawn.flip[row] else x
        if drawn.jitter[row]:
            for column in drawn.order[row].tolist():
                if column in (0, 3):
                    (brightness_, contrast_, saturation_, hue_)[column](x, drawn.amounts[row : row + 1, column])
        if drawn.grey[row]:
            grey_(x)
        if drawn.solarize[row]:
            solarize_(x, augmentation.threshold)
        torch.testing.assert_close(found[row], x[0], atol=1e-6, rtol=0)


def test_nothing_done_gives_the_picture_back():
    pixels = pictures(3, 16)
    assert Augmentation.none(16).is_none
    assert torch.equal(views(pixels, Augmentation.none(16)), pixels.float().mul(1 / 255))
    assert not any(a.is_none for a in (Augmentation.light(16), Augmentation.cifar(16), Augmentation.simclr(16)))


def test_no_pictures_make_no_views():
    assert views(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), Augmentation.simclr(16)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_what_are_no_pixels_is_refused(pixels: torch.Tensor):
    with pytest.raises(BadInput, match=r"expected uint8 \[n, 3, h, w\]"):
        views(pixels, Augmentation.none(8))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"size": 0}, "size 0"),
        ({"size": 8, "flip": 1.5}, "flip 1.5: expected 0 to 1"),
        ({"size": 8, "hue": 0.6}, "hue 0.6: expected 0 to 0.5"),
        ({"size": 8, "area": (0.0, 1.0)}, "area 0.0, 1.0"),
        ({"size": 8, "area": (0.5, 1.2)}, "area"),
        ({"size": 8, "sigma": (2.0, 1.0)}, "sigma 2.0, 1.0"),
    ],
)
def test_an_impossible_augmentation_is_refused(given: dict, says: str):
    with pytest.raises(BadConfig, match=says):
        Augmentation(**given)
