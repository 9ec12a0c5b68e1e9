"""Text to train a tokenizer on: every line is used, or counted with a reason. Through tools/train_tokenizer.py."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from mars_megatron.tokenizers.train_text import LIMIT, TrainingText, train_text_tokenizer
from tests.support.command_lines import load_tool

ROOT = Path(__file__).parents[3]
Learn = Callable[..., tuple[list[str], str]]
PLAIN = "a red square\nthe blue circle\nthree plus four\n" * 20


@pytest.fixture
def learn(tmp_path: Path, capsys: Any) -> Learn:
    """What `train_tokenizer.py text` makes of some bytes: the pieces, and what it says on standard error."""
    main = load_tool("train_tokenizer").main

    def run(content: bytes, *options: object) -> tuple[list[str], str]:
        (tmp_path / "some text.txt").write_bytes(content)
        arguments = "text", "--input", tmp_path / "some text.txt", "--output", tmp_path / "t.model", "--at-most"
        code = main(list(map(str, (*arguments, "--vocab-size", 300, *options))))
        error = capsys.readouterr().err
        assert code == 0, error
        return pieces(tmp_path / "t.model"), error

    return run


def pieces(model: Path) -> list[str]:
    return [piece.piece for piece in model_pb2.ModelProto.FromString(model.read_bytes()).pieces]


def words(seed: int, number: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefgh", k=generator.randint(2, 7))) for _ in range(number)]


def test_long_lines_teach_what_short_ones_do(learn: Learn) -> None:
    lines = [words(seed, 900) for seed in range(40)]
    # Pairs of letters are counted within words alone, so that a model of pairs is the same however lines are cut.
    found, said = learn("\n".join(map(" ".join, lines)).encode(), "--model-type", "bpe")
    short = [" ".join(line[start : start + 9]) for line in lines for start in range(0, 900, 9)]
    wanted, nothing = learn("\n".join(short).encode(), "--model-type", "bpe")
    assert found == wanted and len(found) > 200
    assert "40 of 40 lines longer than 4192 bytes, cut" in said and nothing == ""


@pytest.mark.parametrize("options", [("--model-type", "bpe"), ("--character-coverage", 0.9995)])
def test_one_enormous_line_without_spaces(learn: Learn, options: tuple[object, ...]) -> None:
    generator = random.Random(0)
    characters = [chr(0x4E00 + number) for number in range(150)]
    found, said = learn("".join(generator.choices(characters, k=60_000)).encode(), *options)
    assert set(characters) <= set(found)
    assert "1 of 1 lines longer" in said


def test_a_long_line_among_short_ones(learn: Learn) -> None:
    found, said = learn((PLAIN + "xyz " * 3000 + "\n" + PLAIN + "q" * (LIMIT + 1)).encode())
    assert {"x", "y", "z", "q"} <= set("".join(found))
    assert "2 of 122 lines longer" in said


def test_lines_that_end_in_other_ways_and_marks_at_the_beginning(learn: Learn) -> None:
    plain, nothing = learn(PLAIN.encode())
    for content in (PLAIN.replace("\n", "\r\n"), "\ufeff" + PLAIN, PLAIN.rstrip("\n")):
        assert learn(content.encode()) == (plain, nothing)
    assert nothing == ""


def test_what_is_no_sentence_is_counted(learn: Learn) -> None:
    plain, _ = learn(PLAIN.encode())
    found, said = learn(b"\n  \n\t\r\n" + PLAIN.encode() + "\u3000\n".encode())
    assert set("".join(found)) == set("".join(plain)) and "4 of 64 lines empty" in said

    found, said = learn(PLAIN.encode() + b"caf\xe9\n" * 3 + b"\xed\xa0\x80\n" + b"a red square\n")
    assert (
        set("".join(found)) == set("".join(plain)) and "4 of 65 lines not UTF-8, left out; the first is line 61" in said
    )

    found, said = learn(PLAIN.encode() + b"x\0y\n" * 10)
    assert {"x", "y"} <= set("".join(found)) and "10 of 70 lines with NUL characters, read as spaces" in said

    # A character that SentencePiece passes over with its whole line.
    found, said = learn((PLAIN + "load ▅▅▅ jkv\n" * 10).encode())
    assert {"j", "k", "v"} <= set("".join(found)) and "10 of 70 lines with U+2585" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n\r\n", "has no line to learn from: 3 of 3 lines empty"),
        (b"\xff\xfe" + PLAIN.encode("utf-16-le"), "looks like UTF-16; convert it"),
        (PLAIN.encode("utf-16"), "looks like UTF-16"),
        (PLAIN.encode("utf-16-be"), "looks like UTF-16"),
        (PLAIN.encode("utf-32"), "looks like UTF-32; convert it with `iconv -f UTF-32"),
        (b"\xe9t\xe9\n" * 9, "has no line to learn from: 9 of 9 lines not UTF-8, left out; the first is line 1"),
        ("▅\n".encode() * 3, "no line to learn from: 3 of 3 lines with U+2585"),
    ],
)
def test_files_with_nothing_to_learn_are_refused(content: bytes, words: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    line = ["text", "--input", str(tmp_path / "text.txt"), "--output", str(tmp_path / "t.model")]
    assert load_tool("train_tokenizer").main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: text {tmp_path / 'text.txt'} ") and words in error
    assert not (tmp_path / "t.model").exists()


def test_ordinary_text_gives_the_model_of_sentencepiece_itself(tmp_path: Path) -> None:
    """Byte for byte, the name of the file in it included."""
    text = tmp_path / "text.txt"
    edge = "w" * (LIMIT - 2) + " v"  # as long as a line may be
    text.write_text("\ufeff" + PLAIN.replace("\n", "\r\n") + edge + "\n\n三加四\n", encoding="utf-8", newline="")
    with pytest.warns(UserWarning, match="1 of 63 lines empty"):
        train_text_tokenizer(text, tmp_path / "ours.model", vocab_size=28)
    theirs = io.BytesIO()
    options = {"vocab_size": 28, "model_type": "unigram", "character_coverage": 1.0, "hard_vocab_limit": True}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_writer=theirs, user_defined_symbols="", minloglevel=2, **options
    )
    assert (tmp_path / "ours.model").read_bytes() == theirs.getvalue()


LINES = st.lists(st.text("ab 三。,\t\u3000😀", max_size=60), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(lines=LINES, times=st.integers(1, 400), end=st.sampled_from(["", "\n"]))
def test_parts_are_the_lines(tmp_path_factory: Any, lines: list[str], times: int, end: str) -> None:
    """Nothing is lost or made up, whatever the lengths, and no part is too long or cuts a character."""
    path = tmp_path_factory.mktemp("parts") / "text.txt"
    path.write_bytes(("\n".join(line * times for line in lines) + end).encode())
    parts = list(TrainingText(path).sentences())
    assert all(0 < len(part) <= LIMIT for part in parts)
    text = "".join(part.decode() for part in parts)
    assert "".join(text.split()) == "".join(path.read_text(encoding="utf-8").split())


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A line of 64 MiB is looked at and cut in far less."""
    path = tmp_path / "text.txt"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(b"word " * (1 << 18))
    code = (
        "import resource, sys\n"
        "from mars_megatron.tokenizers.train_text import TrainingText\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = TrainingText.read(sys.argv[1])\n"
        "assert sum(len(part) for part in found.sentences()) > 60 << 20\n"
        "print(found.long, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=ROOT, check=True)
    long, kib = map(int, done.stdout.split())
    assert long == 1 and kib < 8 << 10
