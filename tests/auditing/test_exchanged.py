"""A few rows exchanged among thousands: told by what both rows of an exchange show, where the share alone is lost in what ranks low by itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearfar.auditing import audit, material_of
from nearfar.auditing.exchanged import FEWEST, UNLIKELY, Exchanged, _poisson_from, exchanged
from nearfar.auditing.matching import check_matching, estimate
from nearfar.auditing.nearness import Nearness
from nearfar.data.pairs import read_pairs
from nearfar.types import Pair

import faults

MEDQUAD = Path(__file__).parents[3] / "shared/data/medquad"


def looked_at(pairs):
    near = Nearness(material_of(pairs))
    told, ranks = near.percentiles()
    return near, exchanged(near, told, ranks), estimate(ranks)


def abbreviated(count, seed=0):
    """Pairs that belong together, of which one in twenty ranks low by itself: its answer says an abbreviation for the name."""
    rng = np.random.default_rng(seed)
    pairs = faults.clean_pairs(count, seed=seed)
    for row in rng.choice(count, count // 20, replace=False).tolist():
        name = pairs[row].query.rstrip("?").split()[-2:]
        answer = pairs[row].positive
        for word in name:
            answer = answer.replace(word, faults.invented(rng, 1))
        pairs[row] = replace(pairs[row], positive=answer)
    return pairs


@pytest.mark.parametrize("seed", range(3))
def test_what_was_exchanged_is_found_with_the_row_that_holds_it(seed):
    clean = faults.clean_pairs(1_500, seed=seed)
    pairs, truth = faults.shuffle(clean, 0.02, np.random.default_rng(seed))
    near, found, _ = looked_at(pairs)
    assert found.is_proof
    assert len(found.pairs) >= 0.6 * truth * len(pairs)
    for row, holder in zip(near.rows[found.pairs].tolist(), near.rows[found.holders].tolist(), strict=True):
        assert pairs[row].positive != clean[row].positive
        assert pairs[holder].positive == clean[row].positive
    assert 0.3 * truth < found.at_least() / len(pairs) <= truth


def test_one_in_a_hundred_is_named_among_pairs_that_rank_low_by_themselves():
    clean = abbreviated(2_000)
    assert looked_at(clean)[1].is_proof is False
    assert [f.severity for f in check_matching(material_of(clean))] == ["info"]
    spoiled, truth = faults.shuffle(clean, 0.01, np.random.default_rng(5))
    _, found, alone = looked_at(spoiled)
    (finding,) = check_matching(material_of(spoiled))
    assert found.is_proof
    assert finding.severity == "warning"
    assert finding.low is not None
    assert finding.high is not None
    assert finding.low <= truth <= finding.high
    assert finding.low >= alone.low
    assert "exchanged with each other" in finding.what
    assert "nearer is that of" in finding.examples[0].text


def test_strangers_whose_own_positives_are_nowhere_were_not_exchanged():
    pairs = faults.clean_pairs(1_500, seed=1)
    rng = np.random.default_rng(1)
    copied = [replace(p, positive=pairs[rng.integers(1_500)].positive) if i % 20 == 0 else p for i, p in enumerate(pairs)]
    _, found, alone = looked_at(copied)
    assert not found.is_proof
    assert found.at_least() == found.about() == 0
    assert alone.low <= 0.05 <= alone.high
    assert [f.severity for f in check_matching(material_of(copied))] == ["warning"]


def test_other_answers_to_the_same_query_are_not_what_it_lost():
    """A query with two positives, one of them far from its words: the other is known, and no exchange."""
    rng = np.random.default_rng(0)
    pairs: list[Pair] = []
    for pair in faults.clean_pairs(600):
        pairs.append(replace(pair, group=None))
        if len(pairs) % 10 == 0:
            pairs.append(Pair(pair.query, " ".join(faults.invented(rng, 3) for _ in range(20))))
    _, found, _ = looked_at(pairs)
    assert len(found.pairs) < FEWEST


def test_how_unlikely_a_number_is():
    from scipy import stats

    for count in (1, 2, 3, 10, 60):
        for mean in (0.05, 1.0, 12.5, 60.0):
            assert _poisson_from(count, mean) == pytest.approx(stats.poisson.sf(count - 1, mean), abs=1e-9)
    none = np.zeros(0, np.int64)
    assert not Exchanged(none, none).is_proof
    ten = np.arange(10)
    assert Exchanged(ten, ten, 0.5).is_proof
    assert not Exchanged(ten, ten, 8.0).is_proof
    assert stats.poisson.sf(9, 2.7) > UNLIKELY
    assert not Exchanged(ten, ten, 2.97).is_proof
    # twice what chance finds, at least, however many
    hundreds = np.arange(300)
    assert Exchanged(hundreds, hundreds, 149.0).is_proof
    assert not Exchanged(hundreds, hundreds, 151.0).is_proof


@pytest.mark.parametrize("seed", range(4))
def test_one_in_a_hundred_of_real_pairs_is_named_by_words_alone(seed):
    if not MEDQUAD.exists():
        pytest.skip("needs ../shared/data/medquad")
    pairs, truth = faults.shuffle(read_pairs(MEDQUAD / "pairs.jsonl").pairs[:3_000], 0.01, np.random.default_rng(seed))
    (finding,) = check_matching(material_of(pairs))
    assert finding.severity == "warning", finding.what
    assert finding.low is not None
    assert finding.high is not None
    # three or four in a thousand of these answers are no nearer than a random one by themselves
    assert finding.low - 0.004 <= truth <= finding.high


def intents(count, seed):
    """Pairs of one intent that rank low among others: each text says two of its intent's four words, the pair's two texts none in common."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        intent = int(rng.integers(40))
        words = rng.permutation([f"word{intent}x{number}" for number in range(4)])
        texts = [" ".join([*part, *(f"common{n}" for n in rng.integers(60, size=4))]) for part in (words[:2], words[2:])]
        found.append(Pair(*texts))
    return found


def test_rows_of_a_topic_of_their_own_that_rank_low_were_not_exchanged():
    """Found in clean files of two sources: a pair's texts share no word, but other pairs of its intent hold what it asks for, and rank low as well."""
    pairs = [*faults.clean_pairs(2_000), *intents(300, seed=0)]
    near = Nearness(material_of(pairs))
    told, ranks = near.percentiles()
    assert (ranks > 0.1).sum() > 50
    assert not exchanged(near, told, ranks).is_proof


def test_where_every_pair_that_tells_ranks_low_nothing_breaks():
    pairs = [Pair(f"x{i}" + " App" * (i < 200), f"y{i}" + " App" * (i >= 900)) for i in range(1_000)]
    assert check_matching(material_of(pairs)) == []
    near = Nearness(material_of(pairs))
    assert not exchanged(near, *near.percentiles()).is_proof


@pytest.mark.filterwarnings("error")
def test_judged_rows_of_one_positive_say_nothing():
    rng = np.random.default_rng(0)
    pairs = [Pair(faults.invented(rng), faults.invented(rng), score=0.0) for _ in range(300)]
    pairs += [Pair(faults.invented(rng), "the one answer", score=1.0) for _ in range(300)]
    assert check_matching(material_of(pairs)) == []
    assert any("distinct positives" in line for line in audit(pairs).left_out)
    near = Nearness(material_of(pairs))
    near.percentiles()


def test_all_positives_of_one_query_are_no_rivals():
    rng = np.random.default_rng(0)
    pairs = [Pair("gizmo manual", f"manual of gizmo {faults.invented(rng)}") for _ in range(300)]
    (finding,) = check_matching(material_of(pairs))
    assert (finding.severity, finding.share) == ("info", 0.0)


def test_where_most_pairs_share_no_word_words_accuse_nobody():
    rng = np.random.default_rng(0)
    pairs = [
        Pair(f"{faults.invented(rng)} {faults.invented(rng)}", f"{faults.invented(rng)} {faults.invented(rng)}")
        for _ in range(900)
    ]
    pairs[:100] = [Pair(f"{p.query} same{i % 9}", f"{p.positive} same{i % 7}") for i, p in enumerate(pairs[:100])]
    assert check_matching(material_of(pairs)) == []


def test_scores_need_no_table_of_the_whole_vocabulary():
    """A vocabulary of a hundred words a text, none of them asked for twice: numbers for the asked terms alone."""
    import tracemalloc

    from nearfar.auditing.words import Terms

    documents = [" ".join(f"w{row}x{n}" for n in range(100)) for row in range(3_000)]
    words = Terms([text.split()[0] for text in documents[:50]], documents)
    tracemalloc.start()
    table = words.against(np.arange(50), np.arange(3_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ((table > 0) == np.eye(50, 3_000, dtype=bool)).all()
    assert peak < 60e6  # the whole table would take 3.6 GB
