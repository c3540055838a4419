"""Pairs out of Python source: honest splits, nothing run, nothing lost without being counted."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.near_duplicates import shingles
from nearfar.data.sources import examples, read_python_docs
from nearfar.data.sources.docstrings import read_file, split_sentence
from nearfar.data.sources.python_docs import package_of
from nearfar.errors import BadInput

WORDS = [
    "read",
    "write",
    "open",
    "close",
    "sort",
    "merge",
    "split",
    "parse",
    "build",
    "check",
    "count",
    "find",
    "load",
    "save",
    "send",
    "name",
    "list",
    "table",
    "file",
    "graph",
]


def method(number, subject):
    a, b, c = (WORDS[(number * step + subject) % len(WORDS)] for step in (1, 3, 7))
    return (
        f'def {a}_{b}_{number}(x, y: int = {number}) -> None:\n    """{a.title()} the {b} of {c} number {number} {subject}.\n\n'
        f"    It takes {WORDS[(number + 5) % 20]} and gives {WORDS[(number * 11) % 20]} {subject} {number}.\n"
        '    """\n'
    )


@pytest.fixture
def library(tmp_path):
    """Forty packages of ten functions and a `mean` that two share, a copied docstring in every package, a file that runs amok and two that cannot be read."""
    root = tmp_path / "library"
    for package in range(40):
        folder = root / f"pack{package:02}"
        folder.mkdir(parents=True)
        body = "".join(method(n, package) for n in range(10))
        copied = (
            '\nclass Copied:\n    """Hold what every package copies from the other one."""\n    def use(self):\n        pass\n'
        )
        when = " today" * (package % 2)
        near = f'def mean():\n    """Compute the weighted mean of all the given values of the kind number {package // 2}{when}."""\n'
        (folder / "__init__.py").write_text(body + copied + near)
    (root / "pack00" / "amok.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'was run')!r})\nraise SystemExit(1)\n")
    (root / "pack01" / "broken.py").write_text("def f(:\n")
    (root / "pack02" / "latin.py").write_bytes(b'"""caf\xe9"""\n')
    return [("", root)]


def read(library, **given):
    return read_python_docs(**{"roots": library, "held_out": 100, "dev": 90, "workers": 1, **given})


def test_no_package_is_on_two_sides_and_no_sentence_is_in_its_document(library):
    docs = read(library)
    train, dev, task = (set(docs.packages[side]) for side in ("train", "dev", "task"))
    assert train.isdisjoint(dev | task)
    assert dev.isdisjoint(task)
    assert {p.source.split(".")[0] for p in docs.train} <= train
    assert {key.split(".")[0] for key in docs.task.corpus} <= task
    assert len(docs.train) > 100
    for pair in docs.train:
        assert pair.query.lower() not in pair.positive.lower()
        assert pair.positive.startswith(pair.source)
    for found in (docs.dev, docs.task):
        for query, grades in found.judgements.items():
            assert all(found.queries[query].lower() not in found.corpus[key].lower() for key in grades)


def test_nothing_is_run_and_what_cannot_be_read_is_counted(library, tmp_path):
    docs = read(library)
    assert not (tmp_path / "was run").exists()
    assert docs.dropped["file does not parse"] == 2


def test_no_training_query_or_answer_is_a_near_duplicate_of_a_held_out_one(library):
    docs = read(library)
    held = [docs.task, docs.dev]
    queries = [shingles(text) for found in held for text in found.queries.values()]
    for pair in docs.train:
        asked = shingles(pair.query)
        assert max(len(asked & other) / len(asked | other) for other in queries) < 0.8
    assert docs.dropped["near duplicate: training of held out"] > 0  # `mean`, nearly the same in two packages
    assert docs.dropped["sentence of many things"] == 40  # `Copied`, once a package


def test_the_same_seed_gives_the_same_pairs_in_any_number_of_processes_and_another_seed_others(library):
    one, two, other = read(library), read(library, workers=2), read(library, seed=1)
    assert (one.train, one.task, one.dev, one.dropped) == (two.train, two.task, two.dev, two.dropped)
    assert one.packages != other.packages


def test_the_cache_gives_back_the_same_and_is_made_anew_where_it_is_torn_or_the_source_changed(library, tmp_path):
    cache = tmp_path / "cache"
    first = read(library, cache=cache)
    assert read(library, cache=cache) == first
    before = (cache / "manifest.json").stat().st_ino
    assert read(library, cache=cache) == first
    assert (cache / "manifest.json").stat().st_ino == before  # read, not written
    kept = (cache / "train.jsonl").read_bytes()
    (cache / "train.jsonl").write_bytes(kept[: len(kept) // 2])
    assert read(library, cache=cache) == first
    assert (cache / "train.jsonl").read_bytes() == kept
    changed = Path(library[0][1]) / "pack05" / "__init__.py"
    changed.write_text(changed.read_text() + method(99, 5))
    assert read(library, cache=cache) != first


def test_too_little_to_split_is_refused(tmp_path):
    (tmp_path / "one.py").write_text(method(1, 1))
    with pytest.raises(BadInput, match="do not split into three sides"):
        read([("", tmp_path)])


def test_examples_are_training_pairs_and_the_same_every_time(library):
    docs = read(library)
    assert examples(docs, 3) == examples(docs, 3)
    assert len(examples(docs, 3)) == 3
    assert all(pair in docs.train for pair in examples(docs, 3))


@pytest.mark.parametrize(
    ("text", "sentence", "rest"),
    [
        ("Return a copy. Not in place.", "Return a copy.", "Not in place."),
        ("Use e.g. a list of numbers. Then stop.", "Use e.g. a list of numbers.", "Then stop."),
        ("Round to 3.14 of os.path here. Next", "Round to 3.14 of os.path here.", "Next"),
        ("A title without an end\n\nThe body follows.", "A title without an end", "The body follows."),
        ("A line\nbroken in two. Rest", "A line broken in two.", "Rest"),
        ("Do it:\n- first\n- second", "Do it:", "- first\n- second"),
        ("Fill the cell\nParameters\n----------\nx : int", "Fill the cell", "Parameters\n----------\nx : int"),
    ],
)
def test_the_first_sentence_ends_where_a_reader_says_so(text, sentence, rest):
    found = split_sentence(text)
    assert found[0] == sentence
    assert found[1].split() == rest.split()


@given(st.text(max_size=200))
def test_no_text_breaks_the_sentence_and_nothing_is_lost(text):
    sentence, rest = split_sentence(text)
    assert "".join((sentence + rest).split()) == "".join(text.split())


def test_private_names_and_what_is_inside_functions_are_nobodys_to_search(tmp_path):
    (tmp_path / "m.py").write_text(
        'class A(Base):\n    """Keep the things that matter. More of it."""\n'
        '    def go(self, n=1, *args: int) -> str:\n        """Walk over the hills at night. And back."""\n'
        '        def inner():\n            """Nobody ever sees this function here."""\n'
        '    def _hidden(self):\n        """Nobody ever sees this method here."""\n'
        'if True:\n    async def run():\n        """Run for the whole of the day."""\n'
    )
    found = read_file(tmp_path / "m.py", "m")
    assert [(e.name, e.document) for e in found.entries] == [
        ("m.A", "m.A(Base)\nMore of it."),
        ("m.A.go", "m.A.go(self, n=1, *args: int) -> str\nAnd back."),
        ("m.run", "m.run()"),
    ]


@pytest.mark.parametrize("content", [b"\x00", b"def f(\n", b"x = '\xff'\n", b"(" * 5000, b"# -*- coding: nonsense -*-\n"])
def test_a_file_that_is_no_python_is_a_problem_and_no_exception(tmp_path, content):
    (tmp_path / "m.py").write_bytes(content)
    found = read_file(tmp_path / "m.py", "m")
    assert found.entries == ()
    assert "m.py" in found.problem


def test_a_file_that_is_gone_is_a_problem_too(tmp_path):
    os.symlink(tmp_path / "nowhere", tmp_path / "m.py")
    assert "FileNotFoundError" in read_file(tmp_path / "m.py", "m").problem


def test_the_standard_library_is_split_by_module_and_what_is_installed_one_level_deeper():
    assert package_of("importlib.abc.Loader.load_module", set()) == "importlib"
    assert package_of("torch.nn.functional.relu", set()) == "torch.nn"
    assert package_of("torch.nn.functional.relu", {"torch.nn"}) == "torch.nn.functional"
