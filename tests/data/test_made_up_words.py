import numpy as np
import pytest

from hyperfocal.data.synthetic_documents import draw_zipf, make_words, write_sentences


@pytest.mark.parametrize(("syllables", "count"), [(1, 300), (2, 9_000), (3, 698)])
def test_words_are_distinct_and_have_so_many_syllables(syllables: int, count: int) -> None:
    words = make_words(count, syllables, np.random.default_rng(0))
    assert len(words) == len(set(words)) == count
    assert {sum(word.count(vowel) for vowel in "aeiou") for word in words} == {syllables}


def test_every_word_of_one_syllable() -> None:
    assert len(make_words(540, 1, np.random.default_rng(0))) == 540


def test_sentences() -> None:
    vocabulary = [f"w{chr(97 + number)}" for number in range(5)]
    words, lengths = np.arange(3_000) % 5, np.array([1, 2_000, 999])
    texts = write_sentences(vocabulary, words, lengths, np.random.default_rng(0))
    assert [len(text.split()) for text in texts] == [1, 2_000, 999]
    assert texts[0] == "Wa."
    assert " ".join(texts).lower().replace(".", "").split() == [vocabulary[word] for word in words]
    sentences = " ".join(texts).rstrip(".").split(". ")
    assert all(sentence[0] == "W" and "W" not in sentence[1:] for sentence in sentences)
    assert {5, 11, 17} < {len(sentence.split()) for sentence in sentences[1:]} < set(range(5, 17 + 2 * 5))


def test_zipf() -> None:
    shares = np.bincount(draw_zipf(3, 60_000, np.random.default_rng(0)), minlength=3) / 60_000
    whole = 1 + 1 / 2 + 1 / 3
    assert shares == pytest.approx([1 / whole, 1 / 2 / whole, 1 / 3 / whole], abs=0.01)
