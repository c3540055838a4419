"""Texts cut at one length are a heap; codes and templates of one length are none."""

import numpy as np

from nearfar.auditing.cut import cut_heaps

WORDS = ("red", "a", "longer", "word", "of", "several", "lengths", "stands", "in", "every", "text", "here")


def sentences(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(30, 60))) + "." for _ in range(count)]


def test_texts_cut_at_one_length_are_a_heap_there():
    texts = [*sentences(200, 0), *(text[:120] for text in sentences(60, 1))]
    (heap,) = cut_heaps(texts)
    assert heap.length == 120
    assert set(heap.members.tolist()) == {i for i, text in enumerate(texts) if 118 <= len(text.strip()) <= 120}


def test_codes_of_one_length_are_not_cut():
    assert cut_heaps([*sentences(100, 0), *(f"article number {n:012d} in stock" for n in range(60))]) == []


def test_templates_of_one_length_are_not_cut():
    filled = [
        f"the part with the number {n:05d} fits all the machines of the second series and can be ordered from the depot"
        for n in range(60)
    ]
    assert len({len(text) for text in filled}) == 1
    assert cut_heaps([*sentences(100, 0), *filled]) == []
