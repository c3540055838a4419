"""Small worlds to mine in: rules, pairs that share queries, texts and groups, a table that scores them."""

import torch
from hypothesis import strategies as st

from nearfar.data.text import normalize
from nearfar.encoders import StaticEncoder
from nearfar.mining import NegativeRule
from nearfar.types import Pair

from tiny import tiny_tokenizer

SCORE = st.integers(-8, 8).map(lambda n: n / 8)
MAYBE = st.none() | SCORE


@st.composite
def rules(draw, depth=12):
    low, high = draw(MAYBE), draw(MAYBE)
    if low is not None and high is not None and low > high:
        low, high = high, low
    skip = draw(st.integers(0, depth - 1))
    return NegativeRule(
        count=draw(st.integers(1, depth - skip)),
        depth=depth,
        skip_top=skip,
        below_positive=draw(st.none() | st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0])),
        margin=draw(MAYBE),
        max_score=high,
        min_score=low,
        sampling=draw(st.sampled_from(["top", "random", "softmax"])),
        temperature=draw(st.sampled_from([0.01, 0.3])),
        seed=draw(st.integers(0, 3)),
    )


def table(seed=0, dim=16):
    weights = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(weights, tiny_tokenizer())


ENCODER = table()


def forbidden(pairs):
    """Of each pair, the texts that are never its negatives, normalized: by plain loops until nothing more is joined."""
    groups = [{("q", normalize(p.query)), *([("g", p.group)] if p.group is not None else [])} for p in pairs]
    joined = True
    while joined:
        joined = False
        for a in groups:
            for b in groups:
                if a & b and a != b:
                    a |= b
                    b |= a
                    joined = True
    return [
        {normalize(t) for p, other in zip(pairs, groups, strict=True) if own & other for t in (p.query, p.positive)}
        for own in groups
    ]


WORD = st.sampled_from(["cat", "Cat", " cat ", "dog", "dog fish", "DOG  fish", "red", "blue car", "tree", "query", "Query "])
WORLDS = st.lists(
    st.builds(
        Pair,
        WORD,
        WORD,
        st.lists(WORD, max_size=2).map(tuple),
        st.none() | st.sampled_from(["g1", "g2"]),
        source=st.sampled_from(["one", "two"]),
    ),
    min_size=1,
    max_size=6,
)
