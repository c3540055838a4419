"""What every index keeps, whatever its kind: one body of laws over exact, approximate and lexical."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearfar.errors import BadInput, Damaged
from nearfar.files import hash_file
from nearfar.index import ApproximateIndex, ExactIndex, LexicalIndex, ModelIdentity, open_index
from nearfar.types import Hits

MODEL = ModelIdentity("near-model", "sha256:" + "ab" * 32)
DIM = 16
WORDS = ["river", "mountain", "castle", "engine", "lantern", "copper", "violin", "orchard", "glacier", "pepper"]
TEXTS = [f"{WORDS[i % 10]} {WORDS[(i * 7 + 3) % 10]} {WORDS[(i // 10) % 10]} line\u2028{i} “é”\n" for i in range(60)]
KEYS = [f"d{i}" for i in range(60)]


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """A unit row of each text, the same for the same text."""
    rows = [np.random.default_rng(list(text.encode())).standard_normal(DIM) for text in texts]
    found = np.array(rows, dtype=np.float32).reshape(len(texts), DIM)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@dataclass(frozen=True)
class Case:
    """One kind of index behind one way of calling it: everything is said in texts."""

    kind: str
    make: Callable[[], Any]

    def change(self, index: Any, method: str, keys: Sequence[str], texts: Sequence[str]) -> None:
        getattr(index, method)(keys, texts, *([] if self.kind == "lexical" else [vectors_of(texts)]))

    def build(self, keys: Sequence[str] = KEYS, texts: Sequence[str] = TEXTS) -> Any:
        index = self.make()
        self.change(index, "add", keys, texts)
        return index

    def search(self, index: Any, texts: Sequence[str], k: int) -> Hits:
        return index.search(list(texts) if self.kind == "lexical" else vectors_of(texts), k)


CASES = [
    Case("exact", lambda: ExactIndex(DIM, MODEL)),
    Case("approximate", lambda: ApproximateIndex(DIM, MODEL)),
    Case("lexical", LexicalIndex),
]
each_kind = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)


def found_keys(case: Case, index: Any, texts: Sequence[str] = TEXTS[:9], k: int = 7) -> list[list[tuple[str, float]]]:
    hits = case.search(index, texts, k)
    return [
        [(index.keys[i], round(float(s), 5)) for i, s in zip(ids, scores, strict=True) if i >= 0]
        for ids, scores in zip(hits.ids, hits.scores, strict=True)
    ]


@each_kind
def test_the_document_itself_is_found_first(case):
    index = case.build(KEYS[:10], WORDS)
    assert case.search(index, WORDS, 1).ids[:, 0].tolist() == list(range(10))


@each_kind
def test_documents_are_kept_by_row(case):
    index = case.build()
    assert (list(index.keys), list(index.documents), len(index)) == (KEYS, TEXTS, 60)


@each_kind
def test_scores_fall_and_equal_scores_are_in_order_of_row(case):
    index = case.build(KEYS, [WORDS[i % 3] for i in range(60)])
    hits = case.search(index, WORDS[:3], 20)
    for query in range(3):
        assert hits.ids[query].tolist() == list(range(query, 60, 3))
        assert np.allclose(hits.scores[query], hits.scores[query, 0])


@each_kind
def test_a_search_of_an_empty_index_finds_nothing(case):
    hits = case.search(case.make(), TEXTS[:3], 4)
    assert (hits.ids == -1).all()
    assert np.isneginf(hits.scores).all()
    assert (hits.ids.shape, hits.ids.dtype, hits.scores.dtype) == ((3, 4), np.int64, np.float32)


@each_kind
def test_a_search_for_no_queries_gives_no_rows(case):
    assert case.search(case.build(), [], 4).ids.shape == (0, 4)


@each_kind
def test_results_beyond_the_last_document_are_minus_one_and_minus_infinity(case):
    hits = case.search(case.build(KEYS[:3], ["river"] * 3), ["river"], 5)
    assert hits.ids[0].tolist() == [0, 1, 2, -1, -1]
    assert np.isneginf(hits.scores[0, 3:]).all()


@each_kind
def test_k_below_one_is_refused(case):
    with pytest.raises(BadInput, match="k: expected at least 1, found 0"):
        case.search(case.build(), TEXTS[:1], 0)


@each_kind
def test_adding_in_parts_equals_adding_at_once(case):
    parts = case.make()
    for start in range(0, 60, 13):
        case.change(parts, "add", KEYS[start : start + 13], TEXTS[start : start + 13])
    assert found_keys(case, parts) == found_keys(case, case.build())


@each_kind
def test_removing_equals_never_having_added(case):
    index = case.build()
    index.remove(KEYS[5:50:2])
    kept = [i for i in range(60) if KEYS[i] not in KEYS[5:50:2]]
    never = case.build([KEYS[i] for i in kept], [TEXTS[i] for i in kept])
    assert list(index.keys) == list(never.keys)
    assert list(index.documents) == list(never.documents)
    assert found_keys(case, index) == found_keys(case, never)


@each_kind
def test_everything_can_be_removed_and_added_again(case):
    index = case.build()
    index.remove(KEYS)
    assert (case.search(index, TEXTS[:2], 3).ids == -1).all()
    case.change(index, "add", KEYS, TEXTS)
    assert found_keys(case, index) == found_keys(case, case.build())


@each_kind
def test_any_history_of_changes_equals_building_what_is_left(case, tmp_path):
    rng = np.random.default_rng(3)
    index, held = case.build(), dict(zip(KEYS, TEXTS, strict=True))
    for step in range(25):
        gone = [str(key) for key in rng.choice(list(held), size=3, replace=False)]
        index.remove(gone)
        for key in gone:
            del held[key]
        kept = str(rng.choice(list(held)))
        new = {kept: f"pepper {step}", f"n{step}": f"violin {step}", f"m{step}": f"copper {WORDS[step % 10]}"}
        case.change(index, "upsert", list(new), list(new.values()))
        del held[kept]
        held |= new
        if step % 8 == 7:
            index.save(tmp_path / "index")
            index = open_index(tmp_path / "index")
    assert list(zip(index.keys, index.documents, strict=True)) == list(held.items())
    assert found_keys(case, index) == found_keys(case, case.build(list(held), list(held.values())))


@each_kind
@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("add", ["new", "d7"], "'d7'.*upsert"),
        ("add", ["new", "new"], "'new' is given twice"),
        ("upsert", ["d1", "d1"], "'d1' is given twice"),
        ("add", ["new", "\ud800"], "not valid Unicode"),
        ("add", ["new", 3], "expected text, found int"),
        ("add", ["new"], "found 1 keys and 2 documents"),
        ("add", "ab", "found one text"),
    ],
)
def test_a_refused_change_says_the_key_and_changes_nothing(case, method, keys, message):
    index = case.build()
    before = found_keys(case, index)
    with pytest.raises(BadInput, match=message):
        case.change(index, method, keys, ["river", "copper"])
    assert list(index.keys) == KEYS
    assert found_keys(case, index) == before


@each_kind
def test_removing_an_unknown_key_names_it_and_removes_nothing(case):
    index = case.build()
    with pytest.raises(BadInput, match="'nowhere'"):
        index.remove(["d1", "nowhere"])
    assert list(index.keys) == KEYS


@each_kind
@pytest.mark.parametrize("count", [0, 1, 60])
def test_a_saved_index_opens_to_the_same_hits_bit_for_bit(case, count, tmp_path):
    index = case.build(KEYS[:count], TEXTS[:count])
    index.save(tmp_path / "index")
    opened = open_index(tmp_path / "index")
    assert type(opened) is type(index)
    assert (list(opened.keys), list(opened.documents)) == (KEYS[:count], TEXTS[:count])
    before, after = case.search(index, TEXTS[:9], 7), case.search(opened, TEXTS[:9], 7)
    assert np.array_equal(before.ids, after.ids)
    assert np.array_equal(before.scores, after.scores)


@each_kind
def test_an_index_of_documents_without_words_is_kept(case, tmp_path):
    case.build(KEYS[:2], ["the", "?"]).save(tmp_path / "index")
    opened = open_index(tmp_path / "index")
    assert list(opened.documents) == ["the", "?"]


@each_kind
def test_an_opened_index_can_change_and_be_saved_over_its_own_folder(case, tmp_path):
    case.build().save(tmp_path / "index")
    opened = open_index(tmp_path / "index")
    opened.remove(KEYS[:30])
    opened.save(tmp_path / "index")
    assert list(open_index(tmp_path / "index").keys) == KEYS[30:]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@each_kind
def test_the_manifest_says_what_is_there(case, tmp_path):
    case.build().save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (manifest["format"], manifest["kind"], manifest["count"]) == ("nearfar-index/1", case.kind, 60)
    assert manifest["made_by"].startswith("nearfar ")
    if case.kind != "lexical":
        assert manifest["model"] == {"name": MODEL.name, "fingerprint": MODEL.fingerprint}
        assert manifest["dim"] == DIM
    for name, entry in manifest["files"].items():
        assert hash_file(tmp_path / "index" / name) == entry["sha256"]
    assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in (tmp_path / "index").iterdir()}


@each_kind
@pytest.mark.parametrize("harm", ["truncated", "altered", "missing"])
def test_every_file_that_is_torn_altered_or_missing_is_named(case, harm, tmp_path):
    index = case.build()
    index.save(tmp_path / "index")
    for path in sorted((tmp_path / "index").iterdir()):
        whole = path.read_bytes()
        if harm == "missing":
            path.unlink()
        else:
            middle = len(whole) // 2
            path.write_bytes(whole[:-3] if harm == "truncated" else whole[:middle] + b"\x01" + whole[middle + 1 :])
        with pytest.raises(Damaged, match=path.name):
            open_index(tmp_path / "index")
        path.write_bytes(whole)
    assert list(open_index(tmp_path / "index").keys) == KEYS


@each_kind
def test_a_manifest_that_was_edited_is_named(case, tmp_path):
    case.build().save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace('"made_by": "nearfar', '"made_by": "someone'))
    with pytest.raises(Damaged, match=r"manifest\.json: was altered"):
        open_index(tmp_path / "index")


@each_kind
def test_an_unknown_format_is_refused_with_both_versions(case, tmp_path):
    case.build().save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace("nearfar-index/1", "nearfar-index/9"))
    with pytest.raises(BadInput, match=r"'nearfar-index/9'.*'nearfar-index/1'"):
        open_index(tmp_path / "index")


@each_kind
def test_a_folder_that_is_no_index_is_neither_opened_nor_overwritten(case, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(BadInput, match="no index here"):
        open_index(tmp_path / "thesis")
    with pytest.raises(BadInput, match="chapter"):
        case.build().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    with pytest.raises(BadInput, match="is a file"):
        case.build().save(tmp_path / "thesis" / "chapter.txt")


@each_kind
def test_an_index_folder_with_someone_elses_file_in_it_is_not_overwritten(case, tmp_path):
    index = case.build()
    index.save(tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="notes"):
        index.save(tmp_path / "index")


def test_an_index_of_one_kind_may_replace_one_of_another(tmp_path):
    for case in (*CASES, *CASES):
        case.build().save(tmp_path / "index")
        assert open_index(tmp_path / "index").kind == case.kind


def test_an_absent_folder_is_a_plain_mistake(tmp_path: Path):
    with pytest.raises(BadInput, match="no index here"):
        open_index(tmp_path / "absent")
