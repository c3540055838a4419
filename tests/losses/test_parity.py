"""Every loss of the peers is proven equal to ours or named as missing, and docs/losses.md says exactly that."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from torch import nn

import nearfar.losses

import parity

PROOFS = [proof for module in parity.modules() for proof in module.PROOFS]
NAMED = {re.match(r"\w+", name).group() for module in parity.modules() for name in module.WITHOUT}  # pyright: ignore
PACKAGES = {
    "sentence_transformers": "sentence_transformers.sentence_transformer.losses",
    "pytorch_metric_learning": "pytorch_metric_learning.losses",
}


@pytest.mark.parametrize("proof", PROOFS, ids=[f"{n}-{proof.peer.rsplit('.', 1)[1]}" for n, proof in enumerate(PROOFS)])
def test_this_line_of_the_page_is_true(proof):
    proof.check()


@pytest.mark.parametrize("package", sorted({proof.peer.split(".", 1)[0] for proof in PROOFS} & set(PACKAGES)))
def test_every_loss_of_the_peer_is_proven_or_named_as_missing(package):
    parity.needs(package)
    public = vars(importlib.import_module(PACKAGES[package]))
    classes = {name for name, found in public.items() if isinstance(found, type) and issubclass(found, nn.Module)}
    proven = {proof.peer.rsplit(".", 1)[1] for proof in PROOFS if proof.peer.startswith(f"{package}.")}
    assert classes
    assert classes <= proven | NAMED
    assert proven <= classes


def test_the_page_holds_exactly_the_proofs_and_what_is_missing():
    _, heading, tail = parity.PAGE.read_text().partition(parity.HEADING)
    assert heading + tail == parity.elsewhere(), "run `python tests/losses/parity.py`, which writes that part of the page anew"


def test_the_page_names_every_loss_there_is():
    head, _, _ = parity.PAGE.read_text().partition(parity.HEADING)
    assert [name for name in nearfar.losses.__all__ if f"`{name}`" not in head] == []


def test_the_page_has_the_call_of_every_loss_as_it_is():
    head, _, _ = parity.PAGE.read_text().partition(parity.HEADING)
    assert head.endswith(parity.calls()), "run `python tests/losses/parity.py`, which writes that part of the page anew"


def test_the_example_of_targets_on_the_page_is_what_it_says():
    (code,) = re.findall(r"```python\n(.*?)```", parity.PAGE.read_text(), re.DOTALL)
    told: dict[str, Any] = {}
    exec(code, told)
    logits = (told["q"].detach() @ told["c"].T) / 0.05
    for row, (own, counted) in enumerate([(0, [0, 2, 3]), (2, [0, 1, 2, 3, 4]), (3, [0, 1, 2, 3])]):
        torch.testing.assert_close(told["each"][row].detach(), logits[row, counted].logsumexp(0) - logits[row, own])
    assert told["q"].grad is not None
