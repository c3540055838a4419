"""Near duplicates: all of them, and nothing else, against the comparison of all with all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.near_duplicates import near_duplicates, near_groups, near_twins, shingles

sentences = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=9).map(" ".join)
SIMILARITIES = st.sampled_from([0.3, 0.5, 0.8, 1.0])


def is_near(one, other, similarity):
    a, b = shingles(one), shingles(other)
    return bool(a and b) and len(a & b) >= similarity * len(a | b)


@given(st.lists(sentences, max_size=8), st.lists(sentences, max_size=8), SIMILARITIES)
def test_near_duplicates_equal_the_comparison_of_all_with_all(texts, against, similarity):
    expected = [any(is_near(text, other, similarity) for other in against) for text in texts]
    assert near_duplicates(texts, against, similarity=similarity) == expected
    for text, twin in zip(texts, near_twins(texts, against, similarity=similarity), strict=True):
        assert twin < 0 or is_near(text, against[twin], similarity)


@given(st.lists(sentences, max_size=14), SIMILARITIES)
def test_groups_are_what_all_near_pairs_link(texts, similarity):
    groups = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if is_near(texts[i], texts[j], similarity):
                low, high = sorted((groups[i], groups[j]))
                groups = [low if g == high else g for g in groups]
    assert near_groups(texts, similarity=similarity).tolist() == groups


def test_a_flood_of_copies_is_one_group():
    texts = [f"the same long answer of the clinic with one number in it {n} and so it goes on and on" for n in range(3000)]
    assert np.unique(near_groups(texts)).tolist() == [0]
