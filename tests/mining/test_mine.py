"""Mining whole: what is never a negative, ranks, sources, mixtures, the cache, kills."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ENCODER, WORD, WORLDS, forbidden, rules, table

from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.data.text import normalize
from nearfar.embedding import embed
from nearfar.encoders import StaticEncoder
from nearfar.errors import BadConfig, BadInput, Interrupted
from nearfar.mining import NegativeRule, mine
from nearfar.mining.sources import NAMES, fuse, parse_sources, split_count
from nearfar.training.plan import fingerprint_pairs
from nearfar.types import Pair

from tiny import WORDS, tiny_pairs

ANY = NegativeRule(below_positive=None, depth=20)


class Counted(StaticEncoder):
    """An encoder that counts the texts it is given."""

    def prepare(self, items, role="document"):
        self.seen = [*getattr(self, "seen", []), *items]
        return super().prepare(items, role)


def counted():
    return Counted(ENCODER.weight, ENCODER.tokenizer)


@settings(max_examples=150, deadline=None)
@given(
    pairs=WORLDS,
    rule=rules(),
    corpus=st.lists(WORD, max_size=4),
    sources=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    keep=st.booleans(),
    fill=st.booleans(),
    taught=st.booleans(),
)
def test_no_mined_negative_is_a_known_positive_a_copy_of_one_the_query_or_of_its_group_for_any_rule(
    pairs, rule, corpus, sources, keep, fill, taught
):
    if len({p.source for p in pairs}) < 2:
        sources = [s for s in sources if s != "cross_source"] or ["dense"]
    rule = replace(rule, count=max(rule.count, len(sources)), depth=12 + len(sources))
    teacher = table(5) if taught else None
    found = mine(
        pairs, encoder=ENCODER, rule=rule, corpus=corpus, sources=",".join(sources), keep=keep, fill=fill, teacher=teacher
    )
    asked, got = found.summary.total
    assert got <= asked
    assert got == sum(m.source != "given" for p in found.pairs for m in p.mined)
    for before, after, never in zip(pairs, found.pairs, forbidden(pairs), strict=True):
        own = list(zip(after.negatives, after.mined, strict=True)) if after.mined else []
        new = [normalize(text) for text, m in own if m.source != "given"]
        assert not never & set(new)
        assert len(new) == len(set(new)) <= rule.count
        if keep:
            assert after.negatives[: len(before.negatives)] == before.negatives
            assert not set(new) & {normalize(t) for t in before.negatives}
        assert replace(after, negatives=(), mined=(), teacher_scores=()) == replace(before, negatives=())
        if taught and after.negatives:
            assert len(after.teacher_scores) == len(after.negatives) + 1


def crowded(groups=3, size=30):
    """Many positives of one group: more than a search looks at beyond its depth."""
    rng = np.random.default_rng(0)
    return [
        Pair(
            f"{WORDS[30 + g]} {WORDS[i]}",
            f"{WORDS[30 + g]} {' '.join(WORDS[j] for j in rng.permutation(60)[:3])}",
            group=f"g{g}",
        )
        for g in range(groups)
        for i in range(size)
    ]


def test_a_rank_is_a_place_among_all_that_may_be_negatives_however_many_positives_lie_before_it():
    pairs = crowded()
    found = mine(pairs, encoder=ENCODER, rule=replace(ANY, count=10))
    documents = list(dict.fromkeys(p.positive for p in pairs))
    rows = embed(ENCODER, documents)
    for pair, never, query in zip(
        found.pairs, forbidden(pairs), embed(ENCODER, [p.query for p in pairs], role="query"), strict=True
    ):
        order = [documents[i] for i in np.argsort(-(rows @ query), kind="stable") if normalize(documents[i]) not in never]
        assert [order[m.rank - 1] for m in pair.mined] == list(pair.negatives) == order[:10]


def test_scores_and_margins_are_the_models_whichever_search_found_the_document():
    pairs = tiny_pairs(60)
    found = mine(pairs, encoder=ENCODER, rule=ANY, sources="bm25,dense,random,cluster,hybrid").pairs
    assert {m.source for p in found for m in p.mined} == {"bm25", "dense", "random", "cluster", "hybrid"}
    for pair in found:
        query = embed(ENCODER, [pair.query], role="query")[0]
        near = embed(ENCODER, [pair.positive, *pair.negatives]) @ query
        assert [m.score for m in pair.mined] == pytest.approx(near[1:].tolist(), abs=2e-6)
        assert [m.margin for m in pair.mined] == pytest.approx((near[0] - near[1:]).tolist(), abs=2e-6)


def test_the_order_of_pairs_changes_no_pair_whatever_is_drawn():
    pairs = tiny_pairs(60)
    for sampling in ("top", "random", "softmax"):
        rule = replace(ANY, sampling=sampling, seed=5)
        options = {"encoder": ENCODER, "rule": rule, "sources": "dense:3,random:1,cluster:1"}
        there, back = mine(pairs, **options).pairs, mine(pairs[::-1], **options).pairs[::-1]
        assert there == back
    assert (
        mine(pairs, encoder=ENCODER, rule=replace(ANY, sampling="random", seed=6)).pairs
        != mine(pairs, encoder=ENCODER, rule=replace(ANY, sampling="random", seed=5)).pairs
    )


def test_what_one_source_lacks_is_missing_unless_the_others_may_fill():
    pairs = [Pair("cat", "dog"), Pair("fish", "bird"), Pair("red", "blue tree"), Pair("green", "cat house")]
    options = {"encoder": ENCODER, "rule": replace(ANY, count=2), "sources": "bm25:1,dense:1"}
    found = mine(pairs, **options)
    assert found.summary.asked == {"bm25": 4, "dense": 4}
    assert found.summary.found == {"bm25": 1, "dense": 4}
    assert "3 of 8 negatives asked for were not found" in found.summary.advice[0]
    filled = mine(pairs, **options, fill=True)
    assert filled.summary.found == {"bm25": 1, "dense": 7}
    assert all(len(p.negatives) == len(set(p.negatives)) == 2 for p in filled.pairs)


def test_nothing_is_padded_and_pairs_without_negatives_are_counted():
    pairs = [Pair("cat", "dog", group="g"), Pair("fish", "bird", ("old",), group="g")]
    found = mine(pairs, encoder=ENCODER, rule=replace(ANY, min_score=0.999))
    assert [p.negatives for p in found.pairs] == [(), ()]
    assert (found.summary.without, found.summary.full, found.summary.total) == (2, 0, (10, 0))
    assert "Give more (--corpus FILE)" in found.summary.advice[0]


def test_a_pair_keeps_its_negatives_only_where_asked_and_what_was_said_of_them():
    pairs = [replace(p, negatives=("my own",)) for p in tiny_pairs(10)]
    rule = replace(ANY, count=2)
    assert all("my own" not in p.negatives[:0] and len(p.negatives) == 2 for p in mine(pairs, encoder=ENCODER, rule=rule).pairs)
    kept = mine(pairs, encoder=ENCODER, rule=rule, keep=True)
    assert all(p.negatives[0] == "my own" and p.mined[0].source == "given" and len(p.negatives) == 3 for p in kept.pairs)
    assert kept.summary.kept == 10
    again = mine(kept.pairs, encoder=ENCODER, rule=rule, keep=True).pairs
    assert all(a.mined[:3] == k.mined and a.negatives[:3] == k.negatives for a, k in zip(again, kept.pairs, strict=True))


def test_other_sources_are_those_that_hold_no_pair_of_the_query():
    pairs = [replace(p, source="ab"[i % 2]) for i, p in enumerate(tiny_pairs(20))]
    found = mine(pairs, encoder=ENCODER, rule=ANY, sources="cross_source", corpus=["a stray text"]).pairs
    of = {p.positive: p.source for p in pairs}
    assert all(p.negatives and {of[n] for n in p.negatives} == {"b" if p.source == "a" else "a"} for p in found)
    with pytest.raises(BadInput, match="cross_source looks among the documents of other sources, and all pairs are of one"):
        mine(tiny_pairs(5), encoder=ENCODER, rule=ANY, sources="cross_source")


def test_without_a_model_words_find_negatives_and_rules_of_scores_are_refused():
    pairs = [Pair("red cat", "blue dog"), Pair("blue fish", "a red tree"), Pair("tree", "the cat house")]
    found = mine(pairs, encoder=None, rule=ANY, sources="bm25").pairs
    assert found[0].negatives == ("a red tree", "the cat house") or set(found[0].negatives) == {"a red tree", "the cat house"}
    assert all(m.score is None and m.margin is None for p in found for m in p.mined)
    with pytest.raises(BadConfig, match="below_positive: this rule compares a model's scores"):
        mine(pairs, encoder=None, sources="bm25")
    with pytest.raises(BadConfig, match="dense compares a model's vectors, and there is no model"):
        mine(pairs, encoder=None, rule=ANY)


def test_the_approximate_search_finds_what_the_exact_one_finds_on_a_small_collection():
    pairs = tiny_pairs(100)
    exact, near = (mine(pairs, encoder=ENCODER, rule=ANY, sources=s).pairs for s in ("dense", "approximate"))
    same = np.mean([len(set(a.negatives) & set(b.negatives)) / 5 for a, b in zip(exact, near, strict=True)])
    assert same > 0.98


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 3))
def test_fusion_equals_plain_loops(seed, depth, lists):
    rng = np.random.default_rng(seed)
    given_lists = [np.array([rng.permutation(15)[:9]]) for _ in range(lists)]
    for one in given_lists:
        one[0, rng.integers(5, 10) :] = -1
    gains = {}
    for one in given_lists:
        for rank, i in enumerate(one[0].tolist(), 1):
            if i >= 0:
                gains[i] = gains.get(i, 0.0) + 1 / (60 + rank)
    expected = sorted(gains, key=lambda i: (-round(gains[i], 12), i))[:depth]
    assert [i for i in fuse(given_lists, depth)[0].tolist() if i >= 0] == expected


def test_a_count_is_split_by_largest_remainder_and_leaves_no_source_out():
    assert split_count(10, parse_sources("dense:0.7,bm25:0.2,random:0.1")) == {"dense": 7, "bm25": 2, "random": 1}
    assert split_count(5, parse_sources("dense,bm25")) == {"dense": 3, "bm25": 2}
    with pytest.raises(BadConfig, match="of 5 negatives a pair, none would come from random"):
        split_count(5, parse_sources("dense:0.8,bm25:0.15,random:0.05"))
    for text, said in (
        ("dens", "'dens' is none. Known: dense, approximate"),
        ("dense:0", "share above 0"),
        ("bm25,bm25", "twice"),
    ):
        with pytest.raises(BadConfig, match=said):
            parse_sources(text)


def test_a_teacher_drops_what_it_takes_for_positives_and_its_scores_are_kept():
    pairs, teacher = tiny_pairs(60), table(9)
    found = mine(pairs, encoder=ENCODER, rule=replace(ANY, teacher_below=0.9), teacher=teacher)
    assert found.summary.dropped["teacher"] > 0
    for pair in found.pairs:
        query = embed(teacher, [pair.query], role="query")[0]
        near = embed(teacher, [pair.positive, *pair.negatives]) @ query
        if pair.negatives:
            assert pair.teacher_scores == pytest.approx(near.tolist(), abs=1e-5)
            assert (near[1:] <= near[0] - 0.1 * abs(near[0]) + 1e-5).all()


def test_training_does_not_look_at_where_negatives_came_from():
    found = mine(tiny_pairs(10), encoder=ENCODER, rule=ANY).pairs
    assert fingerprint_pairs(found) == fingerprint_pairs([replace(p, mined=()) for p in found])


def test_another_rule_encodes_nothing_and_new_documents_alone_are_encoded(tmp_path):
    pairs = tiny_pairs(60)
    first = counted()
    mine(pairs, encoder=first, rule=ANY, sources="dense:2,bm25:1,hybrid:1,random:1", cache=tmp_path / "kept")
    assert len(first.seen) == 120
    second = counted()
    strict = replace(ANY, below_positive=0.8, depth=15, count=4)
    again = mine(pairs, encoder=second, rule=strict, sources="dense:2,bm25:2", cache=tmp_path / "kept")
    assert not hasattr(second, "seen")
    assert again.summary.from_cache == ["dense", "bm25"]
    assert again.pairs == mine(pairs, encoder=ENCODER, rule=strict, sources="dense:2,bm25:2").pairs
    third = counted()
    more = mine(pairs, encoder=third, rule=ANY, corpus=["a new one", "and another"], cache=tmp_path / "kept")
    assert sorted(third.seen) == ["a new one", "and another"]
    assert more.pairs == mine(pairs, encoder=ENCODER, rule=ANY, corpus=["a new one", "and another"]).pairs
    other = Counted(table(1).weight, ENCODER.tokenizer)
    mine(pairs, encoder=other, rule=ANY, cache=tmp_path / "kept")
    assert len(other.seen) == 120


def test_every_byte_that_is_damaged_is_named_and_made_anew(tmp_path):
    pairs, notes = tiny_pairs(30), []
    options = {"encoder": ENCODER, "rule": ANY, "cache": tmp_path / "kept"}
    expected = mine(pairs, **options).pairs
    files = sorted((tmp_path / "kept").rglob("*.safetensors"))
    assert len(files) == 4  # rows of queries and of documents, a list, the positives' scores
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for at in rng.integers(len(whole), size=12).tolist():
            for other in files:
                if "hits" in str(other) and "hits" not in str(file):
                    other.unlink(missing_ok=True)  # so that the rows are read
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            notes.clear()
            found = mine(pairs, **options, progress=lambda *_args, **facts: notes.append(facts.get("note")))
            assert found.pairs == expected
            assert any(str(file) in note for note in notes if note), (file, at)
            assert file.exists()
        file.write_bytes(whole[: len(whole) // 2])
        assert mine(pairs, **options).pairs == expected


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import nearfar.mining.rows as rows
from test_mine import ENCODER, ANY, tiny_pairs, mine
rows.TABLE_BLOCK = 20
kept = rows.Cache.keep_block
def slow(self, *given):
    kept(self, *given)
    print("kept", flush=True)
    time.sleep(0.3)
rows.Cache.keep_block = slow
mine(tiny_pairs(120), encoder=ENCODER, rule=ANY, cache={cache!r})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_work_that_is_killed_goes_on_where_it_was(tmp_path, number):
    here = str(Path(__file__).parent)
    code = SLOW.format(tests=here, cache=str(tmp_path / "kept"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, here])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "kept\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "the same command goes on from there" in said
    after = counted()
    found = mine(tiny_pairs(120), encoder=after, rule=ANY, cache=tmp_path / "kept")
    assert 120 < len(after.seen) <= 200
    assert found.pairs == mine(tiny_pairs(120), encoder=ENCODER, rule=ANY).pairs


def test_an_interrupt_says_what_is_kept(tmp_path):
    def stop(stage, done, _total, **_facts):
        if stage == "search dense" and done == 0:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=rf"kept in {tmp_path}") as caught:
        mine(tiny_pairs(10), encoder=ENCODER, rule=ANY, cache=tmp_path, progress=stop)
    assert caught.value.exit_code == 130


def test_mined_pairs_come_back_from_a_file(tmp_path):
    found = mine(tiny_pairs(20), encoder=ENCODER, rule=ANY, sources="dense:4,random:1", teacher=table(9)).pairs
    for suffix in (".jsonl", ".csv", ".parquet"):
        write_pairs(tmp_path / f"pairs{suffix}", found)
        assert read_pairs(tmp_path / f"pairs{suffix}").pairs == found


def test_a_summary_counts_every_place_of_every_list_once():
    pairs = tiny_pairs(40)
    rule = replace(NegativeRule(depth=20), skip_top=2, min_score=-0.1, max_score=0.6)
    found = mine(pairs, encoder=ENCODER, rule=rule)
    told = found.summary.to_json()
    json.dumps(told, allow_nan=False)
    in_rules = sum(n for reason, n in told["dropped"].items() if reason not in ("positive", "query", "group"))
    passed = 40 * 20 - in_rules
    assert told["dropped"]["skip_top"] == 80
    assert passed >= told["found"]
    assert set(told["examples"]) == set(told["dropped"])
    example = found.summary.examples["below_positive"]
    assert example.score > 0.95 * example.positive_score


def test_more_negatives_than_there_are_documents_give_all_of_them_and_take_no_room():
    pairs = tiny_pairs(30)
    for sources, keep in (("dense", False), ("dense,bm25", True)):
        vast = mine(
            pairs, encoder=ENCODER, rule=replace(ANY, count=10**9, depth=2 * 10**9), sources=sources, keep=keep, fill=True
        )
        few = mine(pairs, encoder=ENCODER, rule=replace(ANY, count=600, depth=1000), sources=sources, keep=keep, fill=True)
        assert {frozenset(p.negatives) for p in vast.pairs} == {frozenset(p.negatives) for p in few.pairs}
        assert vast.summary.total == (30 * 10**9, few.summary.total[1])


@pytest.mark.filterwarnings("error")
def test_limits_beyond_float32_are_above_or_below_every_score():
    pairs = tiny_pairs(20)
    plain = mine(pairs, encoder=ENCODER, rule=ANY)
    vast = mine(pairs, encoder=ENCODER, rule=replace(ANY, max_score=1e300, min_score=-1e300, margin=-1e300))
    assert vast.pairs == plain.pairs
    with pytest.raises(BadConfig, match="temperature=1e-320: expected a number of 1e-6 or more"):
        replace(ANY, temperature=1e-320)


@pytest.mark.parametrize("source", ["random", "cluster", "hybrid", "approximate"])
def test_every_source_mines_without_a_cache(source):
    assert mine(tiny_pairs(30), encoder=ENCODER, rule=ANY, sources=source).summary.total[1] > 0
