"""The cleaned copy: lossless for what is kept, a line for everything that is not, and the original as it was."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfar.auditing import read_leniently
from nearfar.auditing.fixing import fix
from nearfar.errors import BadInput


def mined(*ranks):
    """What `nearfar mine` says of negatives found at these ranks."""
    return [{"source": "dense", "rank": rank, "score": 0.5, "margin": 0.1} for rank in ranks]


ROWS = [
    {
        "query": "what is one",
        "positive": "one is a number",
        "negatives": ["n1", "n2", "n3"],
        "mined": mined(1, 2, 3),
        "note": "  kept ",
    },
    {"query": "what is two", "positive": "two is a number", "negatives": ["n1"], "mined": mined(1), "note": None},
    {"query": "What is  two", "positive": "two is a number", "negatives": ["n1"], "mined": mined(9), "note": "copy"},
    {
        "query": "what is three",
        "positive": "three is a number",
        "negatives": ["n1", "Three is a  number", "n2"],
        "mined": mined(1, 2, 3),
        "note": "ü",
    },
    {"query": "same text", "positive": "same  text", "negatives": [], "mined": [], "note": "x"},
]


def reasons(path):
    return [(item["where"].rpartition(":")[2], item["reason"]) for item in map(json.loads, path.read_text().splitlines())]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_kept_lines_are_the_same_bytes_in_the_same_order_and_the_rest_is_listed(tmp_path, ending):
    lines = [json.dumps(row, ensure_ascii=False, indent=None, separators=(",", ": ")) for row in ROWS]
    lines.insert(1, json.dumps({"query": "no answer", "positive": " "}))
    data = ("\n".join(lines) + "\n").encode()
    source, out = tmp_path / f"pairs{ending}", tmp_path / f"clean{ending}"
    source.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    before = source.read_bytes()
    done = fix(read_leniently(source), source, out)
    assert source.read_bytes() == before
    written = out.read_bytes()
    kept = (gzip.decompress(written) if ending.endswith("gz") else written).decode().splitlines()
    assert kept[:2] == [lines[0], lines[2]]
    assert json.loads(kept[2]) == {**ROWS[3], "negatives": ["n1", "n2"], "mined": mined(1, 3)}
    assert len(kept) == done.kept == 3
    assert reasons(done.removed) == [
        ("2", "refused_rows"),
        ("4", "duplicate_pairs"),
        ("5", "planted_positives"),
        ("6", "query_is_positive"),
    ]
    assert read_leniently(out).refused == []


def test_a_csv_keeps_its_columns_and_its_fields(tmp_path):
    source, out = tmp_path / "p.csv", tmp_path / "q.csv"
    rows = [
        ["query", "positive", "negative_1", "negative_2", "teacher_scores", "page"],
        ["what, one", 'one "is"\na number', "n1", "n2", "[1.0, 0.5, 0.25]", "7"],
        ["what is two", "two is a number", "two is a number", "n2", "[1.0, 0.5, 0.25]", ""],
        ["what is two", "two is a number", "two is a number", "n2", "[1.0, 0.5, 0.25]", "copy"],
    ]
    with open(source, "w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    fix(read_leniently(source), source, out)
    with open(out, newline="") as handle:
        assert list(csv.reader(handle)) == [*rows[:2], ["what is two", "two is a number", "", "n2", "[1.0, 0.25]", ""]]


def test_a_parquet_keeps_its_types(tmp_path):
    source, out = tmp_path / "p.parquet", tmp_path / "q.parquet"
    table = pa.table(
        {
            "query": ["a b c", "d e f", "a b c"],
            "positive": ["one two", "three four", "one two"],
            "when": pa.array([1, 2, 3], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, source)
    done = fix(read_leniently(source), source, out)
    assert pq.read_table(out).equals(table.slice(0, 2))
    assert json.loads(done.removed.read_text())["where"] == f"{source}: row 3"


@pytest.mark.parametrize(
    ("name", "says"), [("p.jsonl", "never touched"), ("q.csv", "in the format of p.jsonl"), ("q", "cannot tell the format")]
)
def test_a_copy_that_cannot_be_one_is_refused(tmp_path, name, says):
    source = tmp_path / "p.jsonl"
    source.write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(BadInput, match=says):
        fix(read_leniently(source), source, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.jsonl"]


def test_nothing_is_written_where_nothing_would_be_left(tmp_path):
    source = tmp_path / "p.jsonl"
    source.write_text(json.dumps(ROWS[4]) + "\n")
    with pytest.raises(BadInput, match="nothing would be left"):
        fix(read_leniently(source), source, tmp_path / "q.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.jsonl"]


def test_kept_lines_keep_their_own_line_ends(tmp_path):
    lines = [f'{{"query": "what is number {i}", "positive": "number {i} is {i * 7} of them"}}'.encode() for i in range(6)]
    source = tmp_path / "p.jsonl"
    source.write_bytes(b"\r\n".join([*lines, lines[0]]) + b"\r\n")
    fix(read_leniently(source), source, tmp_path / "q.jsonl")
    assert (tmp_path / "q.jsonl").read_bytes() == b"\r\n".join(lines) + b"\r\n"


def test_a_cleaned_csv_is_read_as_it_was_even_where_a_text_holds_a_carriage_return(tmp_path):
    source, out = tmp_path / "p.csv", tmp_path / "out.csv"
    source.write_bytes(b'query,positive\n"what is\rone","one\r is a number"\nsame text,same text\n')
    fix(read_leniently(source), source, out)
    assert [(p.query, p.positive) for p in read_leniently(out).pairs] == [("what is\rone", "one\r is a number")]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_lines_that_cannot_be_read_are_listed_as_they_stand_and_the_copy_has_none(tmp_path, ending):
    good = [f"what is the number {n} of all,the number {n} is what follows" for n in range(4)]
    if ending == ".jsonl":
        good = [json.dumps(dict(zip(("query", "positive"), line.split(","), strict=True))) for line in good]
    bad = ['{"query": "what", "pos', "[1, 2]"] if ending == ".jsonl" else ["one", "one,two,three"]
    lines = [*["query,positive"] * (ending == ".csv"), good[0], bad[0], *good[1:], bad[1]]
    source, out = tmp_path / f"p{ending}", tmp_path / f"q{ending}"
    source.write_text("\n".join(lines) + "\n")
    material = read_leniently(source)
    assert [one.where for one in material.refused] == [f"{source}:{1 + i}" for i, line in enumerate(lines) if line in bad]
    done = fix(material, source, out)
    assert out.read_text().splitlines() == [line for line in lines if line not in bad]
    listed = [json.loads(line) for line in done.removed.read_text().splitlines()]
    assert [(item["reason"], item["row"]) for item in listed] == [("refused_rows", line) for line in bad]
