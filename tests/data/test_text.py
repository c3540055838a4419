"""Many texts folded together are what each is folded alone."""

from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.text import normalize, normalize_all

PIECES = st.sampled_from(
    ["a", "B", " ", "  ", "\t", "\n", "\v", "\x1c", "\x1f", "\0", "\x7f", "\x85", "\xa0", "ü", "ﬁ", "İ", "ß", "word"]
)


@given(st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=150))
def test_normalizing_many_texts_is_normalizing_each(texts):
    assert normalize_all(texts) == [normalize(text) for text in texts]


def test_plain_texts_are_lower_cased_and_kept_apart():
    assert normalize_all(["A b", "", "c D"]) == ["a b", "", "c d"]
