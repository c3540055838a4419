"""Texts outside a domain: the same on every call, none of the domain, from this installation alone."""

from nearfar.data.sources.general import outside_texts
from nearfar.data.text import normalize


def test_the_same_question_gets_the_same_distinct_sentences():
    one, two = outside_texts(["a cure for warts"], 500), outside_texts(["a cure for warts"], 500)
    assert one == two
    assert len({normalize(text) for text in one.texts}) == len(one.texts) == 500
    assert all(len(text.split()) >= 3 for text in one.texts)


def test_no_text_of_the_domain_is_among_those_outside_it():
    found = outside_texts([], 1000).texts
    near = [f"  {found[3].upper()} ", f"{found[7]}\nand the rest of a document"]
    kept = outside_texts(near, 1000).texts
    assert found[3] not in kept
    assert found[7] not in kept


def test_where_python_is_the_domain_the_texts_are_of_another():
    docs = outside_texts([], 10_000)
    other = outside_texts(docs.texts, 1000)
    assert other.source != docs.source
    assert len(other.texts) >= 100
    assert not set(other.texts) & set(docs.texts)
