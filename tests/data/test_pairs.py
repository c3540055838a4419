"""Pairs: every format gives back what was written, and every fault is named by file and line."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.errors import BadInput
from nearfar.types import MinedNegative, Pair

TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(str.strip) | st.sampled_from(
    ["a\nb", 'say "x", y', "a\tb", " padded ", "ß ﬁ 漢字 😀", "'", "null", "[1]", "a\r\nb", "\u2028x"]
)
LABEL = st.none() | st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1)
PAIRS = st.lists(
    st.builds(Pair, TEXT, TEXT, st.lists(TEXT, max_size=4).map(tuple), LABEL, st.none() | st.floats(-10, 10), LABEL),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS)
def test_every_format_gives_back_what_was_written(tmp_path: Path, suffix: str, pairs: list[Pair]):
    path = tmp_path / f"pairs{suffix}"
    write_pairs(path, pairs)
    assert read_pairs(path, allow_swapped=True).pairs == pairs


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_teachers_scores_come_back_and_must_be_one_for_each_candidate(tmp_path: Path, suffix: str):
    path = tmp_path / f"pairs{suffix}"
    pairs = [Pair("a", "x", ("n", "m"), teacher_scores=(3.0, 1.5, -2.0)), Pair("b", "y", ("n",))]
    write_pairs(path, pairs)
    assert read_pairs(path).pairs == pairs
    write_pairs(path, [Pair("a", "x", ("n",), teacher_scores=(3.0,))])
    with pytest.raises(BadInput, match="'teacher_scores' holds 1 numbers, expected 2"):
        read_pairs(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
def test_where_negatives_came_from_comes_back_and_is_told_of_each(tmp_path: Path, suffix: str):
    path = tmp_path / f"pairs{suffix}"
    told = (MinedNegative("dense", 3, 0.625, -0.125), MinedNegative("bm25", 1))
    pairs = [Pair("a", "x", ("n", "m"), mined=told), Pair("b", "y", ("n",)), Pair("c", "z")]
    write_pairs(path, pairs)
    file = read_pairs(path)
    assert file.pairs == pairs
    assert "where the negatives were mined" in file.understood
    assert "not used" not in file.understood
    write_pairs(path, [Pair("a", "x", ("n",), mined=told)])
    with pytest.raises(BadInput, match=r"tells of 2 hard negatives, and there are 1\. Drop the column"):
        read_pairs(path)


@pytest.mark.parametrize(
    "told", ["true", "[3]", '[{"rank": 1}]', '[{"source": "dense", "rank": 1, "score": "near"}]', '{"source": "dense"}']
)
def test_a_column_mined_that_something_else_wrote_is_named(tmp_path: Path, told: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"query": "q", "positive": "p", "negatives": ["n"], "mined": {told}}}\n')
    with pytest.raises(BadInput, match=r"pairs.jsonl:1: 'mined' is .* Drop the column"):
        read_pairs(path)


def test_a_datasets_folder_is_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="needs the package `datasets`")
    datasets.Dataset.from_dict({"anchor": ["a", "b"], "positive": ["x", "y"], "negatives": [["n"], []]}).save_to_disk(
        str(tmp_path / "set")
    )
    assert read_pairs(tmp_path / "set").pairs == [Pair("a", "x", ("n",)), Pair("b", "y")]


def test_what_was_understood_is_said_in_one_line(tmp_path: Path):
    path = tmp_path / "faq.csv"
    path.write_text("question,answer,negative_1,negative_2,url\nq1,a1,n1,n2,u\nq2,a2,n3,,u\n")
    file = read_pairs(path)
    assert file.pairs[1] == Pair("q2", "a2", ("n3",))
    assert (
        file.understood
        == "faq.csv: 2 pairs, query from 'question', positive from 'answer', 1 to 2 hard negatives from 'negative_1..negative_2'; not used: url"
    )


def test_lines_are_those_an_editor_shows_even_after_quoted_line_breaks(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text('query,positive\n"two\nlines",x\nq,\n')
    with pytest.raises(BadInput, match=r"p\.csv:4: 'positive' is empty \(beside 'q'\)"):
        read_pairs(path)
    path.write_text('query,positive\r\n"two\r\nlines",x\r\n')
    assert read_pairs(path).pairs == [Pair("two\r\nlines", "x")]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbfquery,positive\nq,a\n")
    assert read_pairs(path).pairs == [Pair("q", "a")]


def test_a_mapping_names_the_columns(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("title,body\nq,a\n")
    assert read_pairs(path, columns={"query": "title", "positive": "body"}).pairs == [Pair("q", "a")]
    with pytest.raises(BadInput, match="no column 'headline'"):
        read_pairs(path, columns={"query": "headline"})


def test_a_spreadsheets_headers_in_capitals_are_the_usual_names(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("Question,ANSWER,Topic\nq,a,t\n")
    file = read_pairs(path)
    assert file.pairs == [Pair("q", "a")]
    assert "query from 'Question', positive from 'ANSWER'; not used: Topic" in file.understood
    path.write_text("Question,question,answer\nq,r,a\n")
    assert read_pairs(path).pairs == [Pair("r", "a")]


QUESTIONS = "".join(f'{{"query": "{"word " * 40}", "positive": "What is number {i}?"}}\n' for i in range(20))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.csv", "a,b\nq,x\n", r"p\.csv:1: no column for the query\. Found: 'a', 'b'; looked for query, anchor.*header line"),
        ("p.csv", "query,question,positive\na,b,c\n", r"p\.csv:1: query and question could both be the query"),
        ("p.csv", "query,query\na,b\n", r"p\.csv:1: column 'query' is there twice"),
        ("p.csv", "query,positive\na,b,c\n", r"p\.csv:2: 3 fields, but the header has 2"),
        ("p.csv", 'query,positive\na,"b\n', r"p\.csv:2: the quoting is broken"),
        ("p.csv", "query,positive\n", r"p\.csv: a header but no rows"),
        ("p.csv", "", r"p\.csv: the file is empty"),
        ("p.csv", "query,positive\nq,a\nr,caf\udce9\n", r"p\.csv:3: byte 24 \(0xe9\) is not UTF-8"),
        ("p.csv", "query,positive\nq,a\0\n", r"p\.csv:2: a NUL character"),
        ("p.csv", "query,positive,score\nq,a,high\n", r"p\.csv:2: 'score' is 'high', expected a number"),
        ("p.csv", "query,positive,negatives\nq,a,plain\n", r"p\.csv:2: 'negatives' is 'plain', expected a JSON list"),
        ("p.jsonl", "\n\n", r"p\.jsonl:1: the file holds only white space"),
        ("p.jsonl", '{"query": "q", "positive": "a"}\n{"query": "q"', r"p\.jsonl:2: not a JSON object"),
        ("p.jsonl", '["q", "a"]\n', r"p\.jsonl:1: expected a JSON object, found list"),
        ("p.jsonl", '{"query": "q", "positive": "a"}\n{"query": "q"}\n', r"p\.jsonl:2: 'positive' is missing"),
        ("p.jsonl", '{"query": "q", "positive": 7}\n', r"p\.jsonl:1: 'positive' is int \('7'\), expected text"),
        ("p.jsonl", '{"query": "q", "positive": "a", "negatives": ["n", " "]}\n', r"p\.jsonl:1: 'negatives\[1\]' is empty"),
        ("p.jsonl", '{"query": "q", "positive": "a", "negatives": "n"}\n', r"p\.jsonl:1: 'negatives' is 'n'"),
        ("p.jsonl", QUESTIONS, r"p\.jsonl:1: the columns look swapped.*--columns query=positive,positive=query"),
        ("p.parquet", "not parquet", r"p\.parquet: not a readable Parquet file"),
        ("p.txt", "q\ta", r"p\.txt: cannot tell the format"),
        ("p.jsonl.gz", "not gzip", r"p\.jsonl\.gz: the compressed file is torn"),
    ],
)
def test_a_fault_is_named_by_file_and_line_with_its_mend(tmp_path: Path, name: str, content: str, says: str):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=says):
        read_pairs(path)


def test_a_folder_a_missing_file_and_a_torn_gzip_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="this is a folder, not a file"):
        read_pairs(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        read_pairs(tmp_path / "p.csv")
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"query": "q", "positive": "a"}).encode() * 50)[:-9])
    with pytest.raises(BadInput, match="torn"):
        read_pairs(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    write_pairs(path, [Pair("q", "a")])

    def broken():
        yield Pair("q2", "b")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_pairs(path, broken())
    assert read_pairs(path).pairs == [Pair("q", "a")]
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_real_pairs_are_read_without_a_false_alarm():
    path = Path(__file__).parents[3] / "shared/data/medquad/pairs.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/data/medquad")
    assert len(read_pairs(path).pairs) == 12_743


@pytest.mark.parametrize("line", ["[" * 100_000, '{"query": "a", "positive": "b", "score": ' + "9" * 5000 + "}"])
def test_json_that_python_itself_will_not_read_is_named_by_its_line(tmp_path, line):
    (tmp_path / "p.jsonl").write_text('{"query": "a", "positive": "b"}\n' + line + "\n")
    with pytest.raises(BadInput, match=r"p\.jsonl:2"):
        read_pairs(tmp_path / "p.jsonl")


@pytest.mark.parametrize("field", ["query", "positive", "negatives"])
def test_half_a_surrogate_pair_is_named_by_file_and_line_and_a_whole_one_is_a_character(tmp_path, field):
    path = tmp_path / "pairs.jsonl"
    good = {"query": "how", "positive": "so \U0001f600", "negatives": ["no"]}
    bad = good | {field: ["\ud800"] if field == "negatives" else "cut \ud83d"}
    path.write_text("\n".join(json.dumps(record) for record in (good, bad)))
    with pytest.raises(
        BadInput, match=rf"pairs\.jsonl:2: \\u{'d800' if field == 'negatives' else 'd83d'} .*half of a surrogate pair"
    ):
        read_pairs(path)
    path.write_text(json.dumps(good))
    assert read_pairs(path).pairs[0].positive == "so \U0001f600"


def test_half_a_surrogate_pair_in_a_list_within_a_csv_is_named_as_well(tmp_path):
    (tmp_path / "pairs.csv").write_text('query,positive,negatives\na,b,"[""\\ud800""]"\n')
    with pytest.raises(BadInput, match=r"pairs\.csv:2: .*surrogate"):
        read_pairs(tmp_path / "pairs.csv")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_carriage_return_inside_a_text_comes_back_from_a_table_of_text(tmp_path: Path, suffix: str):
    pairs = [Pair("one\rtwo", "a \r b", ("n\r",), "g\r1"), Pair("three", "four")]
    write_pairs(tmp_path / f"p{suffix}", pairs)
    assert read_pairs(tmp_path / f"p{suffix}").pairs == pairs


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_text_that_no_table_of_text_can_hold_is_refused_and_the_old_file_stays(tmp_path: Path, suffix: str):
    path = tmp_path / f"p{suffix}"
    path.write_text("old")
    with pytest.raises(BadInput, match=r"row 2 would hold a NUL character.*\.jsonl or \.parquet"):
        write_pairs(path, [Pair("nul \0 here", "positive")])
    assert path.read_text() == "old"
