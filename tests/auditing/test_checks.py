"""Each check against a few pairs in which the answer is plain."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import nearfar
from nearfar.auditing import audit, material_of
from nearfar.auditing.languages import language_of
from nearfar.auditing.matching import estimate, percentiles
from nearfar.auditing.scores import spearman
from nearfar.auditing.swapped import direction
from nearfar.auditing.words import Terms
from nearfar.errors import BadInput
from nearfar.index import LexicalIndex
from nearfar.types import Pair

import faults


def codes(pairs, **given_):
    return {f.code: f for f in audit(pairs, **given_).findings}


def test_term_scores_equal_those_of_the_lexical_index():
    pairs = faults.clean_pairs(40)
    queries, documents = [p.query for p in pairs], [p.positive for p in pairs]
    words = Terms(queries, documents)
    hits = LexicalIndex.build([str(n) for n in range(40)], documents).search(queries, 40)
    table = words.against(np.arange(40), np.arange(40))
    for row in range(40):
        for document, score in zip(hits.ids[row], hits.scores[row], strict=True):
            if document >= 0:
                assert table[row, document] == pytest.approx(score, rel=1e-4)
                assert words.scores(np.array([row]), np.array([document]))[0] == pytest.approx(score, rel=1e-4)
    assert words.means() == pytest.approx(table.mean(axis=0), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_strangers_are_uniform_and_of_pairs_first(seed):
    pairs = faults.clean_pairs(600, seed=seed)
    assert (percentiles(material_of(pairs))[1] < 0.02).mean() > 0.99
    strangers, _ = faults.shuffle(pairs, 1.0, np.random.default_rng(seed))
    ranks = percentiles(material_of(strangers))[1]
    assert stats.kstest(ranks, "uniform").pvalue > 0.001


def test_the_interval_of_mismatched_pairs_covers_and_the_estimate_is_right_on_average():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.05, 0.2):
        shares, covered = [], 0
        for _ in range(200):
            strangers = rng.random(2_000) < share
            # pairs that belong together: mostly first, some low, their density halved from quarter to quarter
            ranks = np.where(strangers, rng.random(2_000), np.minimum(rng.exponential(0.03, 2_000), 1))
            found = estimate(ranks)
            shares.append(found.share)
            covered += found.low <= share <= found.high
        assert np.mean(shares) == pytest.approx(share, abs=0.004 + 0.05 * share)
        assert covered >= 0.93 * 200


def test_exchanging_a_pair_changes_the_sign_of_its_direction_and_nothing_else():
    pairs = faults.clean_pairs(100)
    before = direction(material_of(pairs))
    both = [*pairs, *(replace(p, query=p.positive, positive=p.query) for p in pairs[:5])]
    after = direction(material_of(both))
    assert (after[100:] == -after[:5]).all()
    assert (np.sign(before) == np.sign(after[:100])).all()


def test_where_both_sides_are_built_alike_no_row_is_called_swapped():
    rng = np.random.default_rng(0)
    pairs = [
        Pair(" ".join(faults.invented(rng) for _ in range(6)), " ".join(faults.invented(rng) for _ in range(6)))
        for _ in range(300)
    ]
    assert "swapped_columns" not in codes(pairs)


def test_copies_of_pairs_hubs_several_answers_and_pairs_of_one_text_are_counted():
    base = faults.clean_pairs(200)
    pairs = [*base, *base[:10], *(Pair(f"question number {n} of many?", "It depends on the case at hand.") for n in range(12))]
    pairs += [Pair("the same", "The  same"), Pair(base[0].query, "Another answer that says something else entirely.")]
    found = codes(pairs)
    assert found["duplicate_pairs"].count == 10
    assert found["hub_positives"].count == 12
    assert found["query_is_positive"].count == 1
    assert found["several_answers"].count == 1
    assert found["duplicate_pairs"].examples[0].where == "pairs[200]"


def test_a_document_shared_with_the_task_is_no_fault_but_its_query_is():
    pairs = faults.clean_pairs(100)
    task = nearfar.task_from_pairs("t", faults.clean_pairs(50, seed=9))
    document = next(iter(task.corpus.values()))
    query = next(iter(task.queries.values()))
    found = codes([*pairs, Pair("Something else about it?", document)], task=task)
    assert found["shared_documents"].severity == "info"
    assert "leaked_answers" not in found
    found = codes([*pairs, Pair(query, "Quite another answer.")], task=task)
    assert (found["leaked_queries"].count, found["leaked_queries"].total) == (1, 50)
    assert "leaked_answers" not in found


def test_scores_that_contradict_each_other_are_named_with_both_places():
    pairs = [replace(p, score=float(n % 6)) for n, p in enumerate(faults.clean_pairs(60))]
    pairs.append(replace(pairs[0], score=5.0))
    finding = codes(pairs)["conflicting_scores"]
    assert (finding.count, finding.severity) == (1, "warning")
    assert finding.examples[0].text == "0 here, 5 at pairs[60]"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_rank_correlation_equals_scipys(values):
    a, b = (np.array(column, float) for column in zip(*values, strict=True))
    expected = stats.spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else 0.0
    assert spearman(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the best way to get from here to the station?", "English"),
        ("Wie komme ich von hier am besten zum Bahnhof und was kostet das?", "German"),
        ("Quel est le meilleur chemin pour aller à la gare avec un enfant ?", "French"),
        ("¿Cuál es la mejor manera de llegar a la estación con los niños?", "Spanish"),
        ("Как лучше всего добраться до вокзала?", "Cyrillic"),
        ("駅へ行くのに一番いい方法は何ですか", "Japanese"),
        ("去火车站最好的方法是什么", "Chinese"),
        ("error 404", None),
        ("", None),
    ],
)
def test_languages_are_told_by_script_and_common_words(text, language):
    assert language_of(text) == language


def test_rows_that_are_no_pairs_are_a_finding_of_the_file(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("query,positive\nwhat,that\nwhy,\n,because\nhow,so it is\n")
    finding = codes(path)["refused_rows"]
    assert (finding.count, finding.total, finding.severity) == (2, 4, "critical")
    assert [e.where for e in finding.examples] == [f"{path}:3", f"{path}:4"]
    assert finding.examples[0].text.startswith("'positive' is empty")


def test_no_pairs_at_all_are_refused():
    with pytest.raises(BadInput, match="there are none"):
        audit([])


def test_the_same_pairs_give_the_same_findings():
    pairs = faults.mine(faults.clean_pairs(300), 2, np.random.default_rng(0))
    assert audit(pairs) == audit(pairs)


def test_pairs_that_share_no_word_because_their_script_has_no_spaces_are_not_said_to_be_mismatched():
    pairs = [Pair(f"第{i}个国家的首都是什么？", f"第{i}个国家的首都是城市{i * 7}，人口{i * 1000}。") for i in range(150)]
    assert [f.code for f in audit(pairs).findings if f.code == "mismatched_positives"] == []


def test_what_was_looked_at_is_said_in_the_singular_of_one():
    assert audit([Pair("what is one", "it is a number")]).looked_at == "1 pair: 1 distinct query, 1 distinct document"
    two = [Pair("what is one", "it is a number", ("a tree",)), Pair("what is two", "it is a digit")]
    assert audit(two).looked_at == "2 pairs: 2 distinct queries, 3 distinct documents, 1 hard negative"


def test_one_is_one_and_has_its_verb():
    base = faults.clean_pairs(60)
    pairs = [*base, base[0], Pair("the same", "the same"), Pair(base[1].query, "Another answer, that says something else.")]
    said = [finding.what for finding in codes(pairs).values()]
    assert any("1 pair of 63 (1.6%) was there before" in what for what in said)
    assert any("1 pair of 63 (1.6%) has the same text" in what for what in said)
    assert any("1 query of 61 (1.6%) has several positives" in what for what in said)
    assert not [what for what in said if re.search(r"\b1 \w+s\b|^1 [^.]*\bhave\b", what)]


def test_positives_that_are_labels_are_no_fault():
    pairs = [Pair(f"{p.query} {n}", f"label {n % 5}") for n, p in enumerate(faults.clean_pairs(100))]
    finding = codes(pairs)["hub_positives"]
    assert (finding.severity, finding.count) == ("info", 100)
    assert "look like labels" in finding.remedy
    mixed = [*pairs[:50], *faults.clean_pairs(50, seed=3)]
    assert codes(mixed)["hub_positives"].severity == "warning"
    assert "labels" not in codes(mixed)["hub_positives"].remedy


def test_broken_lines_are_named_up_to_a_number_and_the_others_audited(tmp_path):
    path, rng = tmp_path / "p.jsonl", np.random.default_rng(0)
    lines = [json.dumps({"query": p.query, "positive": p.positive}) for p in faults.clean_pairs(80)]
    torn = sorted(rng.permutation(80)[:25].tolist())
    for number in torn:
        lines[number] = lines[number][:-9]
    path.write_text("\n".join(lines) + "\n")
    found = audit(path)
    finding = next(f for f in found.findings if f.code == "refused_rows")
    assert (finding.count, finding.total, finding.severity) == (25, 80, "critical")
    assert [e.where for e in finding.examples] == [f"{path}:{number + 1}" for number in torn[:20]]
    assert "The first 20 are named" in finding.what
    assert found.looked_at.startswith("55 pairs")
    path.write_text("{\n[]\n")
    with pytest.raises(BadInput, match=r"p.jsonl:1: not a JSON object"):
        audit(path)
