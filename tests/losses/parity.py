"""Proofs that a loss here is a class elsewhere, and the tables of docs/losses.md that are made of them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nearfar.losses
from nearfar.types import Targets

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
HEADING = "## The same elsewhere"
INTRODUCTION = """Each line is proven in `tests/losses/test_parity.py`: value and every gradient, on the same float64 inputs; for open_clip and lightly, which
are no test dependencies, against their formula as loops and the value they gave. `python tests/losses/parity.py` writes this part anew."""


CALLS = "## The calls"


def calls() -> str:
    """The section of the page that has every loss's signature: `*` stands before what is given by name, `slabs` for the options of the slab engine."""
    lines = []
    for name in nearfar.losses.__all__:
        found = getattr(nearfar.losses, name)
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
            lines.append(f"{name}{signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)}")
    return f"{CALLS}\n\n```text\n" + "\n".join(lines) + "\n```\n\n"


class Proof(NamedTuple):
    """One line of the table."""

    peer: str
    """The class elsewhere, with its package: `sentence_transformers.losses.ContrastiveLoss`."""
    ours: str
    """The expression over `nearfar.losses` that gives the same number, as the page shows it."""
    note: str
    """Which arguments, there and here, make them equal."""
    check: Callable[[], None]
    """Compares value and every gradient, on the same float64 inputs."""


def agree(
    ours: str,
    theirs: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    *,
    unit: bool = False,
    tolerance: float = 1e-7,
    **facts: object,
) -> None:
    """`ours`, read as Python over `nearfar.losses`, `inputs` and `facts`, equals theirs(*inputs) in value and in each input's gradient.

    With `unit`, `ours` sees the inputs made unit, as a peer that takes cosines does by itself.
    """

    def run(loss: Callable[[dict[str, Tensor]], Tensor]) -> list[Tensor]:
        leaves = {name: rows.detach().clone().requires_grad_() for name, rows in inputs.items()}
        value = loss(leaves)
        assert value.ndim == 0, f"{ours}: a proof compares scalars, found shape {tuple(value.shape)}"
        value.backward()  # not autograd.grad: losses that cache gradients fill them in by a hook
        return [value.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values())]

    def expression(leaves: dict[str, Tensor]) -> Tensor:
        seen = {name: F.normalize(leaf, dim=1) for name, leaf in leaves.items()} if unit else leaves
        return eval(ours, {"torch": torch, "F": F, "Targets": Targets, **vars(nearfar.losses), **facts, **seen})

    here = run(expression)
    there = run(lambda leaves: theirs(*leaves.values()))
    for name, a, b in zip(["value", *inputs], here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{ours}, {name}: {m}")


def needs(package: str) -> None:
    """Skip where a peer is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")


def table(proofs: Iterable[Proof]) -> str:
    """The lines of proofs, as markdown."""
    lines = ["| there | here | what makes them equal |", "|---|---|---|"]
    for proof in proofs:
        cells = (f"`{proof.peer.rsplit('.', 1)[1]}`", f"`{proof.ours}`", proof.note)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def missing(without: Mapping[str, str]) -> str:
    """What a peer has and we do not, and why, as markdown."""
    return "\n".join(["| there | why not here |", "|---|---|", *(f"| `{name}` | {why} |" for name, why in without.items())])


def modules() -> list[ModuleType]:
    """The siblings of this file that hold proofs."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("parity_*.py"))
    return [importlib.import_module(name) for name in names]


def elsewhere() -> str:
    """The last part of the page: every proof by package, and what has none."""
    by_package: dict[str, list[Proof]] = {}
    lacks: dict[str, dict[str, str]] = {}
    for module in modules():
        for proof in module.PROOFS:
            by_package.setdefault(proof.peer.split(".", 1)[0], []).append(proof)
        lacks.setdefault(module.PROOFS[0].peer.split(".", 1)[0], {}).update(module.WITHOUT)
    found = [HEADING, INTRODUCTION]
    for package, proofs in by_package.items():
        name = package.replace("_", "-")
        found += [f"### {name}", table(proofs)]
        if lacks.get(package):
            found += [f"What {name} has and nearfar does not:", missing(lacks[package])]
    return "\n\n".join(found) + "\n"


if __name__ == "__main__":
    head, _, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(head.partition(CALLS)[0] + calls() + elsewhere())
