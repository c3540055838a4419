"""The story with pictures: emoji and icons with their names, two towers trained from nothing on the picture side, the proof, the search.

Decisions. Whole concepts are held out, so every picture that is searched for is one of a thing never seen. The baseline is free of captions in
all but name: the same towers, settings and seed, trained on the same captions shuffled among the concepts. All that training can learn
without knowing which caption belongs to which picture (how pictures differ, which rows come first for everything) it can learn there, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nearfar.cli.picture_grids import neighbour_grid, rank_grid
from nearfar.data.sources.named_pictures import INSTALL, NamedPictures, read_named_pictures
from nearfar.data.tasks import write_task
from nearfar.encoders import AnyEncoder, ImageEncoder, StaticEncoder, TransformerEncoder, load_encoder
from nearfar.encoders.image_load import pair_towers, small_image
from nearfar.errors import BadInput
from nearfar.evaluation import Comparison, ImageText, compare, evaluate_image_text, evaluate_rows, score_table
from nearfar.evaluation.evaluate import Evaluation
from nearfar.files import write_json
from nearfar.index import open_index
from nearfar.report import Found, MapPoint, Report, Score, Searched, StepPoint, System, project, write_report, write_results
from nearfar.retrieval import build_index, search
from nearfar.training import RunResult, describe_config, parse_settings, train
from nearfar.types import Pair, Progress, Task

SEARCHES = ("a heart", "food", "an animal with wings", "rain", "arrow pointing left", "musical instrument")
SEEDS = 3
METRIC = "success@10"
SIDE = 32
SETTINGS = (
    "loss.name=clip",
    "batch_size=256",
    "learning_rate=0.003",
    "temperature=0.07",
    "learn_temperature=true",
    "optimizer.weight_decay=0.05",
    "optimizer.schedule=cosine",
    # a drawing is always upright and in the middle: views of it, even light crops, only took recall away
    "augment.kind=none",
    "evaluation.dev=0",
    "evaluation.outside_texts=0",
)
EPOCHS = 6
TEXTS = {
    # a table wants far larger steps than a network
    "static": ("optimizer.scale=text.*:10",),
    "minilm": ("model.freeze=text.*",),
}
"""What reads the captions, by the name of `--text`, and how it is trained: a token table made from MiniLM moves, MiniLM itself is locked at first."""
TUNING = ("learning_rate=0.0003", "optimizer.scale=text.model.*:0.1", "epochs=1", "batch_size=256")
"""MiniLM's second stage: once more over the captions, with nothing locked."""
SIMCLR = (
    "loss.name=nt_xent",
    "batch_size=512",
    "learning_rate=0.001",
    "temperature=0.5",
    "optimizer.weight_decay=0.0001",
    "optimizer.schedule=cosine",
    "augment.kind=cifar",
    "model.projector=simclr",
    "evaluation.dev=0",
    "evaluation.judge=0",
    "evaluation.outside_texts=0",
    "epochs=8",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What `nearfar demo images` was asked for."""

    out: Path
    text: str = "static"
    simclr: bool = False
    pairs: int | None = None
    """Train on the first so many pairs only."""
    seeds: int = SEEDS
    epochs: int = EPOCHS


@dataclass(frozen=True)
class Told:
    """One kind of system over all seeds: what each came to, and their mean at each query."""

    name: str
    each: list[ImageText]

    @property
    def mean(self) -> Evaluation:
        """The first seed's evaluation, its metrics the means over the seeds, query by query."""
        found = [one.text_to_image.evaluation for one in self.each]
        metrics = {name: np.mean([one.metrics[name] for one in found], axis=0) for name in found[0].metrics}
        return replace(found[0], system=self.name, metrics=metrics)

    @property
    def recalls(self) -> list[float]:
        """Text to picture Recall@10 of each seed."""
        return [float(one.text_to_image.evaluation.metrics[METRIC].mean()) for one in self.each]


def tell_pictures(asked: Asked, *, progress: Progress, say: Say) -> dict[str, Any]:
    """Run the demo and return what `nearfar demo images --json` prints. An earlier demo at `out` is replaced; its drawn pictures stay.

    Raises `BadInput` where `out` holds something else, `Missing` (with the command) where the packages or the stock MiniLM are not installed.
    """
    if asked.text not in TEXTS:
        raise BadInput(f"--text {asked.text}: expected {' or '.join(TEXTS)}.")
    out = asked.out
    _clear(out)
    marks: dict[str, float] = {}
    began = perf_counter()

    def lap(name: str) -> None:
        marks[name] = round(perf_counter() - began - sum(marks.values()), 2)

    say("1. Data: emoji with their names in six languages, icons with those of their files. Whole concepts are held out.\n")
    docs = read_named_pictures(out / "data", progress=progress)
    pairs = docs.train[: asked.pairs] if asked.pairs else docs.train
    _show_data(docs, pairs, say)
    lap("data")
    words = "a token table made from MiniLM" if asked.text == "static" else "MiniLM, locked and then tuned,"
    say(f"2. Training: an image tower from nothing ({SIDE} pixels), {words} as the text tower, {asked.seeds} seeds.\n")
    runs = _Runs(asked, docs, progress, say)
    trained = runs.all_seeds("trained", pairs)
    lap("training")
    say("\n3. The baseline: the same, with the captions shuffled among the concepts.\n")
    free = runs.all_seeds("shuffled", _shuffle(pairs))
    lap("baseline")
    systems, comparisons = [trained, free], [compare(trained.mean, free.mean, METRIC)]
    if asked.simclr:
        say("\n   --simclr: the image tower sees the same pictures without captions first (SimCLR), then trains as above.\n")
        pretrained = runs.all_seeds("simclr first", pairs, simclr=True)
        systems.append(pretrained)
        comparisons.append(compare(pretrained.mean, trained.mean, METRIC))
        lap("simclr")
    chance = trained.each[0].text_to_image.chance[METRIC]
    say(
        f"\n4. Did it learn? {len(docs.task.queries):,} captions look among {len(docs.task.corpus):,} pictures of concepts never seen.\n"
    )
    said = _verdict(systems, comparisons, chance)
    encoder, languages = _judge(asked, docs, systems, comparisons, said, say)
    lap("judging")
    seconds = marks | {"until the report": round(perf_counter() - began, 1)}
    report = _report(asked, docs, systems, comparisons, said, encoder, seconds)
    say(f"5. The report, full of pictures: {report}\n")
    lap("report")
    _search_it(out, docs, encoder, say)
    lap("search")
    marks["total"] = round(perf_counter() - began, 2)
    told = _told(asked, docs, systems, comparisons, chance, languages, marks)
    write_json(out / "demo.json", told)
    return told


def _judge(
    asked: Asked, docs: NamedPictures, systems: Sequence[Told], comparisons: Sequence[Comparison], said: Sequence[str], say: Say
) -> tuple[AnyEncoder, dict[str, float]]:
    """Say what came out; the model of the first seed, and its recall by language."""
    say(score_table([one.mean for one in systems], comparisons) + "\n")
    for sentence in said:
        say(f"   {sentence}")
    encoder = load_encoder(asked.out / "trained-0")
    languages = _languages(encoder, docs)
    say("   Recall@10 by language: " + ", ".join(f"{name} {score:.3f}" for name, score in languages.items()) + "\n")
    return encoder, languages


def _clear(out: Path) -> None:
    """Make room; the drawn pictures, which take longest, stay."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "data" / "places.json").exists()):
        raise BadInput(f"{out}: this is not an earlier demo of pictures. Give another folder: nearfar demo images -o FOLDER.")
    for place in out.iterdir():
        if place.name != "data":
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _show_data(docs: NamedPictures, pairs: Sequence[Pair], say: Say) -> None:
    say(f"   {docs.understood}")
    if len(pairs) < len(docs.train):
        say(f"   trained on the first {len(pairs):,} captions, as asked")
    say("   " + ", ".join(f"{count:,} {reason}" for reason, count in docs.dropped.items()) + "\n")
    step = max(1, len(pairs) // 5)
    for pair in pairs[step // 2 :: step][:5]:
        say(f"   {pair.source:<5} {pair.query[:60]:<62} {pair.positive}")
    say("")


def _shuffle(pairs: Sequence[Pair]) -> list[Pair]:
    """The same pictures, each concept with the captions of another (over again where that one has fewer): nothing is left to learn from them."""
    captions: dict[str | None, list[str]] = {}
    for pair in pairs:
        captions.setdefault(pair.group, []).append(pair.query)
    groups = list(captions)
    order = np.random.default_rng(0).permutation(len(groups)).tolist()
    # each takes those of the next on one great round, so nobody its own
    others = {groups[one]: cycle(captions[groups[two]]) for one, two in zip(order, [*order[1:], *order[:1]], strict=True)}
    return [replace(pair, query=next(others[pair.group])) for pair in pairs]


@dataclass(frozen=True)
class _Runs:
    """What every run of the demo has in common."""

    asked: Asked
    docs: NamedPictures
    progress: Progress
    say: Say

    def all_seeds(self, name: str, pairs: Sequence[Pair], *, simclr: bool = False) -> Told:
        """A run for each seed, judged; of all but the first seed of `trained` only the figures stay on the disk."""
        return Told(name, [self._one(name, pairs, seed, simclr) for seed in range(self.asked.seeds)])

    def _one(self, name: str, pairs: Sequence[Pair], seed: int, simclr: bool) -> ImageText:
        began = perf_counter()
        asked, out = self.asked, self.asked.out / f"{name.replace(' ', '-')}-{seed}"
        tower = self._see(pairs, seed) if simclr else small_image(SIDE, seed=seed)
        text = load_encoder(asked.text, progress=self.progress)
        assert isinstance(text, (StaticEncoder, TransformerEncoder))
        settings = [*SETTINGS, *TEXTS[asked.text], f"epochs={asked.epochs}", f"seed={seed}"]
        result = self._train(pairs, out, pair_towers(tower, text, seed=seed), settings)
        if asked.text == "minilm":
            locked, out = out, out.with_name(f"{out.name}-tuned")
            result = self._train(pairs, out, load_encoder(locked), [*SETTINGS, *TUNING, f"seed={seed}"])
            shutil.rmtree(locked)
            out = out.rename(locked)
        found = evaluate_image_text(load_encoder(out), self.docs.task, name=out.name, progress=self.progress)
        recall = float(found.text_to_image.evaluation.metrics[METRIC].mean())
        took = f"{result.pairs_per_second:,.0f} pairs a second, {perf_counter() - began:.0f} s"
        self.say(f"   seed {seed}: Recall@10 {recall:.3f}, {result.steps} steps, {took}")
        if seed or name != "trained":
            shutil.rmtree(out)
        return found

    def _train(self, pairs: Sequence[Pair], out: Path, encoder: AnyEncoder, settings: Sequence[str]) -> RunResult:
        return train(
            pairs, out=out, encoder=encoder, config=parse_settings(settings), task=self.docs.task, progress=self.progress
        )

    def _see(self, pairs: Sequence[Pair], seed: int) -> ImageEncoder:
        """An image tower that saw the same pictures without text: SimCLR (Chen 2020)."""
        out = self.asked.out / f"simclr-{seed}"
        seen = list(dict.fromkeys(pair.positive for pair in pairs)) if self.asked.pairs else self.docs.pictures
        config = parse_settings([*SIMCLR, f"seed={seed}"])
        views = [Pair(picture, picture) for picture in seen]
        train(views, out=out, encoder=small_image(SIDE, seed=seed), config=config, progress=self.progress)
        tower = load_encoder(out)
        assert isinstance(tower, ImageEncoder)
        shutil.rmtree(out)
        return tower


def _verdict(systems: Sequence[Told], comparisons: Sequence[Comparison], chance: float) -> list[str]:
    """What was shown, in sentences."""
    trained = systems[0]
    mean = float(np.mean(trained.recalls))
    back = float(np.mean([one.image_to_text.evaluation.metrics[METRIC].mean() for one in trained.each]))
    gap = trained.each[0].gap
    seeds = ", ".join(f"{recall:.3f}" for recall in trained.recalls)
    return [
        f"Text finds the picture of a concept it never saw: Recall@10 {mean:.3f} ({seeds} by seed), {mean / chance:.1f} times chance ({chance:.4f}).",
        f"It is {_shown(comparisons[0], 'the same training on shuffled captions')}",
        f"Pictures find one of their captions: Recall@10 {back:.3f} (chance {trained.each[0].image_to_text.chance[METRIC]:.4f}). The modality gap is "
        f"{gap.distance:.2f} (chance alone leaves {gap.by_chance:.2f}). Success@k is Recall@k as papers on pictures count it: any right answer counts.",
        *(f"SimCLR first is {_shown(effect, 'training at once')}" for effect in comparisons[1:]),
    ]


def _shown(found: Comparison, other: str) -> str:
    words = {"improved": "better than", "not shown": "not shown to differ from", "worse": "worse than"}
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"{words[found.verdict]} {other}: {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {p}."


def _languages(encoder: Any, docs: NamedPictures) -> dict[str, float]:
    """Recall@10 of the captions of each language, among the same pictures."""
    from nearfar.embedding import embed

    pictures = embed(encoder, list(docs.task.corpus.values()))
    found = {}
    for language, task in docs.tasks.items():
        texts = embed(encoder, list(task.queries.values()), role="query")
        scored = evaluate_rows(texts, pictures, task, name=language, metrics=[METRIC])
        found[language] = float(scored.metrics[METRIC].mean())
    return found


def _report(
    asked: Asked,
    docs: NamedPictures,
    systems: Sequence[Told],
    comparisons: Sequence[Comparison],
    said: Sequence[str],
    encoder: Any,
    seconds: Mapping[str, float],
) -> Path:
    from nearfar.cli.run_report import read_steps
    from nearfar.embedding import embed

    first, task = systems[0].each[0], docs.task
    one = first.text_to_image
    pictures = embed(encoder, list(task.corpus.values()))
    captions = embed(encoder, list(task.queries.values()), role="query")
    shown: list[StepPoint] = read_steps(asked.out / "trained-0" / "steps.jsonl")
    config = parse_settings([*SETTINGS, *TEXTS[asked.text], f"epochs={asked.epochs}"])
    path = asked.out / "report.html"
    write_report(
        path,
        Report(
            title="Pictures found by their names",
            subtitle=docs.understood,
            verdict=said,
            systems=[System(s.name, {n: Score(**dict(v)) for n, v in s.mean.summary().items()}) for s in systems],
            differences=comparisons,
            steps=shown,
            grids=[
                rank_grid("Found", "Captions of concepts never seen whose picture came first (seed 0).", one, task, best=True),
                rank_grid("Not found", "Captions whose picture is far down: what was found instead.", one, task, best=False),
                neighbour_grid(
                    "Neighbours", "Held-out pictures and the held-out pictures nearest to them.", pictures, docs.task
                ),
            ],
            points=_map(pictures, captions, task),
            settings=[(s.name, "auto" if s.value is None else str(s.value), s.meaning) for s in describe_config(config)],
            seconds=seconds,
            next_steps=_next(asked.out),
        ),
    )
    return path


def _map(pictures: np.ndarray, captions: np.ndarray, task: Task) -> list[MapPoint]:
    """Pictures and captions on one plane: what lies between the two kinds is the modality gap."""
    places = project(np.concatenate([pictures, captions]))
    kinds = ["emoji" if key.startswith("openmoji") else "icons" for key in task.corpus] + ["captions"] * len(captions)
    names = [*map(str, task.corpus.values()), *task.queries.values()]
    return [MapPoint(float(x), float(y), kind, name) for (x, y), kind, name in zip(places, kinds, names, strict=True)]


def _next(out: Path) -> list[str]:
    return [
        f"nearfar search {out / 'index'} 'a red heart' --html found.html",
        f"nearfar evaluate {out / 'trained-0'} --task {out / 'task'}",
        f"nearfar index {out / 'trained-0'} FOLDER_OF_PICTURES -o INDEX",
    ]


def _search_it(out: Path, docs: NamedPictures, encoder: Any, say: Say) -> None:
    folder = out / "index"
    build_index(encoder, docs.task.corpus, name=str((out / "trained-0").resolve())).save(folder)
    found = search(open_index(folder), encoder, SEARCHES, 8)
    page = out / "search.html"
    write_results(
        page,
        [Searched(query, [Found(h.id, h.score, h.text) for h in hits]) for query, hits in zip(SEARCHES, found, strict=True)],
        index=str(folder),
    )
    say(f"6. An index of the {len(docs.task.corpus):,} held-out pictures ({folder}), searched; as a page of pictures: {page}\n")
    for query, hits in zip(SEARCHES, found, strict=True):
        say(f"   > {query:<24} " + ", ".join(Path(hit.id).stem for hit in hits[:4]))
    write_task(out / "task", docs.task)
    say("\nNext:")
    for line in _next(out):
        say(f"   {line}")


def _told(
    asked: Asked,
    docs: NamedPictures,
    systems: Sequence[Told],
    comparisons: Sequence[Comparison],
    chance: float,
    languages: Mapping[str, float],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "data": docs.to_json(),
        "install": INSTALL,
        "text": asked.text,
        "chance": chance,
        "times_chance": float(np.mean(systems[0].recalls)) / chance,
        "systems": {one.name: {"metrics": one.mean.summary(), "recall@10 by seed": one.recalls} for one in systems},
        "image_to_text": systems[0].each[0].image_to_text.to_json(),
        "modality_gap": systems[0].each[0].gap._asdict(),
        "comparisons": [found.to_json() for found in comparisons],
        "languages": dict(languages),
        "seconds": dict(seconds),
        "run": str(asked.out),
    }
