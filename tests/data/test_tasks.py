"""Tasks: the BEIR folder, round and round, and its faults by file and line."""

from pathlib import Path

import pytest

from nearfar.data.tasks import read_task, task_from_pairs, write_task
from nearfar.errors import BadInput
from nearfar.types import Pair, Task

TASK = Task("t", {"d1": "one", "d2": "two\nlines"}, {"q1": "first?"}, {"q1": {"d2": 3, "d1": 0}})


def test_a_task_comes_back_equal(tmp_path: Path):
    write_task(tmp_path / "t", TASK)
    assert read_task(tmp_path / "t").task == TASK


def test_the_title_stands_before_the_text_unless_the_text_begins_with_it(tmp_path: Path):
    write_task(tmp_path / "t", TASK)
    (tmp_path / "t/corpus.jsonl").write_text(
        '{"_id": "d1", "title": "A", "text": "b"}\n{"_id": "d2", "title": "A b", "text": "A b c"}\n'
    )
    assert read_task(tmp_path / "t").task.corpus == {"d1": "A b", "d2": "A b c"}


def test_queries_without_a_relevant_document_are_left_out_and_counted(tmp_path: Path):
    write_task(tmp_path / "t", Task("t", TASK.corpus, {"q1": "a", "q2": "b", "q3": "c"}, {"q1": {"d1": 1}, "q2": {"d1": 0}}))
    read = read_task(tmp_path / "t")
    assert list(read.task.queries) == ["q1"]
    assert read.understood == "t: 2 documents, 1 queries (2 more without a relevant document left out)"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td9\t1\n", r"test\.tsv:2: no document has the id 'd9'"),
        ("qrels/test.tsv", "q9\td1\t1\n", r"test\.tsv:1: no query has the id 'q9'"),
        ("qrels/test.tsv", "h\th\th\nq1\td1\t0.5\n", r"test\.tsv:2: the grade is '0.5'"),
        ("qrels/test.tsv", "h\th\th\nq1 d1 1\n", r"test\.tsv:2: 1 fields"),
        ("qrels/test.tsv", "h\th\th\nq1\td1\t0\n", "no query has a relevant document"),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n',
            r"corpus\.jsonl:2: '_id' 'd1' is there twice",
        ),
        ("corpus.jsonl", '{"text": "a"}\n', r"corpus\.jsonl:1: '_id' is missing"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', r"queries\.jsonl:1: query 'q1' has no text"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path: Path, file: str, content: str, says: str):
    write_task(tmp_path / "t", TASK)
    (tmp_path / "t" / file).write_text(content)
    with pytest.raises(BadInput, match=says):
        read_task(tmp_path / "t")


def test_several_splits_need_a_choice(tmp_path: Path):
    write_task(tmp_path / "t", TASK, split="dev")
    (tmp_path / "t/qrels/train.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(BadInput, match=r"several splits .* Found: dev, train"):
        read_task(tmp_path / "t")
    assert read_task(tmp_path / "t", split="dev").task.judgements == {"q1": {"d2": 3, "d1": 0}}
    with pytest.raises(BadInput, match="no such folder"):
        read_task(tmp_path / "nowhere")


def test_equal_texts_of_pairs_are_one_query_and_one_document():
    task = task_from_pairs("t", [Pair("Q one", "a"), Pair("q  ONE", "b"), Pair("q two", "A")], ["x", "B"])
    assert list(task.queries.values()) == ["Q one", "q two"]
    assert list(task.corpus.values()) == ["a", "b", "x"]
    assert task.judgements == {"q0": {"d0": 1, "d1": 1}, "q1": {"d0": 1}}


@pytest.mark.parametrize(
    ("name", "documents", "queries"), [("cranfield", 1400, 225), ("cisi", 1460, 76), ("medquad/task", 3483, 1500)]
)
def test_real_collections_are_read_whole(name: str, documents: int, queries: int):
    folder = Path(__file__).parents[3] / "shared/data" / name
    if not folder.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    task = read_task(folder).task
    assert (len(task.corpus), len(task.queries)) == (documents, queries)
