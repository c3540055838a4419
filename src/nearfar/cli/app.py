"""The commands: each reads its arguments, calls the library, and prints what a person (or, with --json, a program) wants to know."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli import auditing, commands, exports, mining, searching

app = typer.Typer(
    name="nearfar",
    help="Train embedding models by contrast, prove the gain, and put them to use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
MODEL = (
    "a run, a model folder, static, static:FOLDER, minilm, a hub name, or of pictures small-image, image:NAME, clip:IMAGE+TEXT"
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from nearfar import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    what: Annotated[str, typer.Argument(metavar="[text|images]", help="Docstrings of Python, or emoji and icons.")] = "text",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The run folder (runs/demo, or runs/demo-images).")] = None,
    pairs: Annotated[int | None, typer.Option(help="Train on the first so many pairs only (a quick look).")] = None,
    text: Annotated[str, typer.Option(help="Of images: what reads the captions, static or minilm.")] = "static",
    simclr: Annotated[
        bool, typer.Option("--simclr", help="Of images: also train the image tower without text first (longer).")
    ] = False,
    json_: Json = False,
) -> int:
    """The whole story on real data, in minutes, on a CPU: baselines, training, proof, report, search."""
    if what not in ("text", "images"):
        raise typer.BadParameter(f"{what}: there are two demos, text and images.")
    if what == "images":
        place = out or Path("runs/demo-images")
        return commands.demo_pictures(place, text=text, simclr=simclr, pairs=pairs, as_json=json_)
    if simclr:
        raise typer.BadParameter("--simclr is of nearfar demo images.")
    return commands.demo(out or Path("runs/demo"), pairs=pairs, as_json=json_)


@app.command()
def train(
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Pairs: JSONL, CSV, TSV, Parquet, a datasets folder, or pictures (a folder, .tar); several are mixed, each a source by its name."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The run folder to write.")] = None,
    encoder: Annotated[str | None, typer.Option(help=f"Where to start: {MODEL}. Default: static, or the recipe's.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings, pairs, sources and stages.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A published way to train, by name: see --list-recipes.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A stronger model, for recipes that learn from one.")] = None,
    list_recipes: Annotated[bool, typer.Option(help="Show all recipes with their papers' numbers, and stop.")] = False,
    remine: Annotated[
        int | None, typer.Option(help="Find hard negatives anew every so many steps, by the model as it is (mining.every).")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, as in batch_size=512; repeatable.")] = None,
    task: Annotated[Path | None, typer.Option("--eval", "--task", help="A BEIR folder that judges the run.")] = None,
    dev: Annotated[Path | None, typer.Option(help="A BEIR folder that chooses the checkpoint.")] = None,
    retain: Annotated[
        Path | None, typer.Option(help="A BEIR folder of what the model could do before: forgetting is reported.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which judgements of --eval: the name of a file in qrels/.")] = None,
    columns: Annotated[str | None, typer.Option(help="Names in the file: query=TITLE,positive=BODY.")] = None,
    allow_swapped: Annotated[bool, typer.Option(help="The columns look swapped, and are meant so.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in this folder.")] = False,
    print_config: Annotated[bool, typer.Option(help="Show all settings with their meaning, and stop.")] = False,
    json_: Json = False,
) -> int:
    """Train an encoder on pairs, and say whether it helped."""
    if list_recipes:
        return commands.list_recipes(as_json=json_)
    told = commands.read_run_file(config)
    settings = [*told.settings, *([] if remine is None else [f"mining.every={remine}"]), *(settings or [])]
    if print_config:
        return commands.print_config(settings, as_json=json_)
    pairs = pairs or list(told.pairs)
    if not pairs or out is None:
        raise typer.BadParameter("PAIRS and -o RUN are needed: nearfar train pairs.csv -o run")
    return commands.train(
        commands.TrainRequest(
            pairs,
            out,
            encoder=encoder or told.encoder,
            recipe=recipe or told.recipe,
            stages=told.stages,
            teacher=teacher or told.teacher,
            settings=settings,
            task=task,
            dev=dev,
            retain=retain,
            split=split,
            columns=columns,
            allow_swapped=allow_swapped,
            resume=resume,
            as_json=json_,
        )
    )


@app.command()
def mine(
    pairs: Annotated[
        Path, typer.Argument(help="Pairs: JSONL, CSV, TSV, Parquet, a datasets folder, or pictures (a folder, .tar).")
    ],
    model: Annotated[str, typer.Option("--model", help=f"What finds and scores: {MODEL}; bm25 for words alone.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The pairs file to write: .jsonl, .csv, .tsv or .parquet.")],
    corpus: Annotated[Path | None, typer.Option(help="More documents: a corpus .jsonl, or a .txt with one a line.")] = None,
    count: Annotated[int | None, typer.Option(help="Negatives for each pair (5).")] = None,
    depth: Annotated[int | None, typer.Option(help="How deep each search looks (100, or ten times what is asked).")] = None,
    skip_top: Annotated[int | None, typer.Option(help="Pass over so many of the first ranks (0).")] = None,
    below_positive: Annotated[
        str | None, typer.Option(help="Drop what scores above this share of the positive's score (0.95), or off.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Drop what scores above the positive's score less this.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Drop what scores above this.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Drop what scores below this.")] = None,
    sample: Annotated[str | None, typer.Option(help="How to take them: top, random, or softmax by score (top).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of --sample softmax (0.05).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn (0).")] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            help="Where to look, by share: dense:0.7,bm25:0.3; also approximate, hybrid, random, cluster, cross_source."
        ),
    ] = None,
    fill: Annotated[bool, typer.Option(help="What one source lacks, the others may give.")] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="A stronger model, or a cross-encoder's folder: drops likely positives, its scores are kept."),
    ] = None,
    teacher_below: Annotated[float | None, typer.Option(help="As --below-positive, by the teacher's scores (0.95).")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Where vectors and lists are kept (.NAME.cache beside OUT), or off.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Names in the file: query=TITLE,positive=BODY.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the negatives that are there, and add the mined ones.")] = False,
    json_: Json = False,
) -> int:
    """Find hard negatives for pairs, and say where each came from. Exit 1 where none is found."""
    rule = {
        "count": count,
        "depth": depth,
        "skip_top": skip_top,
        "margin": margin,
        "max_score": max_score,
        "min_score": min_score,
        "sampling": sample,
        "temperature": temperature,
        "seed": seed,
        "teacher_below": teacher_below,
    }
    options = mining.MineOptions(rule, below_positive, corpus, sources, fill, teacher, cache, columns, keep)
    return mining.mine(pairs, model, out, options, as_json=json_)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=f"bm25, {MODEL}.")],
    task: Annotated[
        Path | None,
        typer.Option(
            "--task", "--eval", help="A BEIR folder: corpus, queries, qrels; its rows may have image in place of text."
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="In place of a task: a folder with a subfolder of pictures for each class (zero-shot).")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="Of --classes: such a folder to learn from, for the votes of neighbours and a linear layer."),
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Of --classes: a prompt, {} is the name; repeatable, averaged ('a photo of a {}').")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="As in ndcg@10; repeatable.")] = None,
    gain: Annotated[str, typer.Option(help="Of nDCG: linear (as trec_eval) or exponential.")] = "linear",
    split: Annotated[str | None, typer.Option(help="The name of a file in qrels/.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Keep the evaluation, for compare.")] = None,
    json_: Json = False,
) -> int:
    """Score a system on a task, with 95 % intervals. Texts and pictures are judged both ways."""
    if (task is None) == (classes is None):
        raise typer.BadParameter("--task FOLDER or --classes FOLDER is needed, one of the two.")
    if classes is not None:
        return commands.evaluate_classes(model, classes, known=known, templates=template or [], out=out, as_json=json_)
    assert task is not None
    return commands.evaluate(model, task, metrics=metric or [], gain=gain, split=split, out=out, as_json=json_)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="The candidate: a kept evaluation, bm25, or a model.")],
    b: Annotated[str, typer.Argument(help="The baseline, likewise.")],
    task: Annotated[Path | None, typer.Option("--task", "--eval", help="A BEIR folder (not for two kept evaluations).")] = None,
    metric: Annotated[str, typer.Option(help="What is compared.")] = "ndcg@10",
    split: Annotated[str | None, typer.Option(help="The name of a file in qrels/.")] = None,
    json_: Json = False,
) -> int:
    """Is A better than B? Paired difference, interval and p-value. Exit 1 where A is shown to be worse."""
    return commands.compare(a, b, task, metric=metric, split=split, as_json=json_)


@app.command()
def encode(
    model: Annotated[str, typer.Argument(help=f"{MODEL[0].upper()}{MODEL[1:]}.")],
    texts: Annotated[Path, typer.Argument(metavar="INPUT", help="A .txt (a text a line) or a corpus .jsonl; - for stdin.")],
    out: Annotated[Path, typer.Option("-o", "--out", help=".npy, .safetensors or .parquet (with ids).")],
    role: Annotated[str, typer.Option(help="What the texts are: query or document.")] = "document",
    precision: Annotated[
        str, typer.Option(help="Of a transformer: float32, bfloat16, or auto (bfloat16 where the processor multiplies it).")
    ] = "auto",
    json_: Json = False,
) -> int:
    """Turn texts into rows of numbers."""
    return commands.encode(model, texts, out, role=role, precision=precision, as_json=json_)


@app.command()
def index(
    model: Annotated[str, typer.Argument(help=f"bm25, {MODEL}.")],
    corpus: Annotated[
        Path, typer.Argument(help="A corpus.jsonl (_id, text or image), a BEIR folder, or a folder of pictures.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The index folder to write.")],
    kind: Annotated[str, typer.Option(help="exact or approximate (bm25 makes a lexical one).")] = "exact",
    json_: Json = False,
) -> int:
    """Make a corpus searchable. Where INDEX holds one by this model, only what is new or changed is encoded."""
    return searching.index(model, corpus, out, kind=kind, as_json=json_)


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="An index folder.")],
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for; without any, a query per line of stdin.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results per query.")] = 5,
    model: Annotated[str | None, typer.Option(help="The index's model, where it lies elsewhere now.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture to look for; repeatable.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write what was found as a page, with the pictures in it.")] = None,
    json_: Json = False,
) -> int:
    """Search an index."""
    if not queries and not image:
        queries = [line.strip() for line in sys.stdin if line.strip()]
    return searching.search(folder, queries or [], k=k, model=model, images=image or [], html=html, as_json=json_)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=f"{MODEL[0].upper()}{MODEL[1:]}.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(exports.TARGETS)}.")] = "onnx",
    dim: Annotated[int | None, typer.Option(help="Keep the first so many dimensions, made unit (Matryoshka).")] = None,
    texts: Annotated[Path | None, typer.Option(help="Compare on these texts (a text a line) instead of built-in ones.")] = None,
    language: Annotated[str | None, typer.Option(help="For the card, as in en.")] = None,
    json_: Json = False,
) -> int:
    """Carry a model to where it is used: an ONNX graph proven equal, or a folder with its card."""
    return exports.export(model, out, to=to, dim=dim, texts=texts, language=language, as_json=json_)


@app.command()
def distill(
    model: Annotated[str, typer.Argument(help="The teacher: a run, a model folder, minilm, or a hub name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the table (default: 256, or the teacher's where it has fewer).")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Weight tokens by their frequency in these pairs as well.")] = None,
    texts: Annotated[Path | None, typer.Option(help="The same, in these texts (a text a line).")] = None,
    task: Annotated[Path | None, typer.Option("--task", "--eval", help="A BEIR folder to score table and teacher on.")] = None,
    split: Annotated[str | None, typer.Option(help="The name of a file in qrels/.")] = None,
    language: Annotated[str | None, typer.Option(help="For the card, as in en.")] = None,
    json_: Json = False,
) -> int:
    """Make a token table of a transformer: hundreds of times as fast, less exact."""
    return exports.distill(
        model, out, dim=dim, pairs=pairs, texts=texts, task=task, split=split, language=language, as_json=json_
    )


@app.command()
def audit(
    pairs: Annotated[
        Path, typer.Argument(help="Pairs: JSONL, CSV, TSV, Parquet, a datasets folder, or pictures (a folder, .tar).")
    ],
    task: Annotated[Path | None, typer.Option("--task", "--eval", help="A BEIR folder: look for leakage into it.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Look at similarities as well: {MODEL}.")] = None,
    split: Annotated[str | None, typer.Option(help="Which judgements of --task: the name of a file in qrels/.")] = None,
    columns: Annotated[str | None, typer.Option(help="Names in the file: query=TITLE,positive=BODY.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write a cleaned copy here, and FIX.removed.jsonl beside it.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Keep the findings as JSON.")] = None,
    review: Annotated[bool, typer.Option("--review", help="Be asked about likely false negatives; answers are kept.")] = False,
    count: Annotated[int, typer.Option(help="Of --review: how many to ask about.")] = 50,
    seed: Annotated[int, typer.Option(help="Chooses the samples.")] = 0,
    json_: Json = False,
) -> int:
    """Look for faults in training pairs, with how much of each and what to do. Exit 1 where a finding is critical."""
    given = auditing.Given(pairs, task=task, model=model, split=split, columns=columns, seed=seed)
    if review:
        return auditing.review(given, count=count, as_json=json_)
    return auditing.audit(given, fix=fix, out=out, as_json=json_)


@app.command()
def doctor(json_: Json = False) -> int:
    """Say what is installed here, what works, and what is missing."""
    return commands.doctor(as_json=json_)
