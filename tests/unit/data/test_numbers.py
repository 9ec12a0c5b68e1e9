import pytest

from mars_megatron.data.sources.numbers import (
    LANGUAGES,
    NUMBER_WORDS,
    all_captions,
    captions,
    corpus,
    digit_of,
    split_facts,
    tokenizer_symbols,
)

VALUE = {word: value for words in NUMBER_WORDS.values() for value, word in enumerate(words)}


def test_captions_name_their_digit_in_both_languages():
    for digit in range(10):
        for language in LANGUAGES:
            assert len(captions(digit, language)) >= 5
            assert all(NUMBER_WORDS[language][digit] in caption for caption in captions(digit, language))
        assert sorted(all_captions(digit)) == sorted(captions(digit, "en") + captions(digit, "zh"))
        assert {digit_of(caption) for caption in all_captions(digit)} == {digit}
    assert len({caption for digit in range(10) for caption in all_captions(digit)}) == 160


@pytest.mark.parametrize(
    "text", ["", "a handwritten digit", "a handwritten digit ten", "a handwritten digit three four"]
)
def test_what_is_no_caption_names_no_digit(text):
    assert digit_of(text) is None


def test_caption_is_recognised_as_a_tokenizer_writes_it():
    assert digit_of(" A handwritten digit three ") == 3 == digit_of("一个手写数字三")


def test_facts_are_true():
    train, held_out = split_facts()
    for fact in train + held_out:
        words = fact.prompt.split()
        if fact.kind == "arithmetic" and "is" in words:
            sign = {"plus": 1, "minus": -1}[words[1]]
            assert VALUE[words[0]] + sign * VALUE[words[2]] == VALUE[fact.answer]
        elif fact.kind == "arithmetic":
            sign = {"加": 1, "减": -1}[fact.prompt[1]]
            assert VALUE[fact.prompt[0]] + sign * VALUE[fact.prompt[2]] == VALUE[fact.answer]
        elif fact.kind == "comparison":
            a, b = (words[0], words[3]) if len(words) > 1 else (fact.prompt[0], fact.prompt[2])
            assert (VALUE[a] > VALUE[b]) == (fact.answer in ("more", "大"))
        elif fact.kind == "counting":
            numbers = [VALUE[w] for w in (words[1:] if len(words) > 1 else fact.prompt[1:])]
            step = -1 if words[0] == "back" else 1
            assert [*numbers, VALUE[fact.answer]] == list(
                range(numbers[0], numbers[0] + step * (len(numbers) + 1), step)
            )
        elif fact.kind == "successor":
            number = words[1] if len(words) > 1 else fact.prompt[0]
            step = 1 if "after" in words or "后" in fact.prompt else -1
            assert VALUE[number] + step == VALUE[fact.answer]
        else:
            assert fact.kind == "translation"
            source = next(value for word, value in (VALUE | NUMERALS).items() if word in fact.prompt)
            assert (VALUE | NUMERALS)[fact.answer] == source


NUMERALS = {str(value): value for value in range(10)}


def test_held_out_facts_are_of_every_kind_and_not_in_the_corpus():
    train, held_out = split_facts()
    assert not set(train) & set(held_out)
    assert {fact.kind for fact in held_out} == {fact.kind for fact in train}
    assert 0.05 < len(held_out) / (len(train) + len(held_out)) < 0.15
    documents = set(corpus(5000))
    assert not documents & {fact.prompt + fact.answer for fact in held_out}
    assert len(documents & {fact.prompt + fact.answer for fact in train}) > 300


def test_corpus_is_deterministic_and_bilingual():
    assert corpus(200, seed=3) == corpus(200, seed=3) != corpus(200, seed=4)
    chinese = sum(any("一" <= character <= "龥" for character in document) for document in corpus(1000))
    assert 300 < chinese < 900


def test_number_words_are_single_tokens_of_a_tokenizer_with_the_symbols(tmp_path):
    from mars_megatron.tokenizers.train_text import train_text_tokenizer

    (tmp_path / "lines.txt").write_text("\n".join(corpus(2000)), encoding="utf-8")
    tokenizer = train_text_tokenizer(
        tmp_path / "lines.txt", tmp_path / "t.model", vocab_size=400, symbols=tokenizer_symbols(), at_most=True
    )
    for words in NUMBER_WORDS.values():
        one, two = (tokenizer.encode(f"a {words[1]}"), tokenizer.encode(f"a {words[2]}"))
        assert len(one) == len(two) and sum(a != b for a, b in zip(one, two, strict=True)) == 1
