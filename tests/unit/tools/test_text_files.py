"""Text files of users: read right, or refused with the file, the line, and what to do. Through the tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.compositional.benchmark import read_scene_prompts
from mars_megatron import train
from mars_megatron.config.parser import read_yaml
from mars_megatron.evaluation.facts import read_facts
from mars_megatron.evaluation.labels import LabelWords, list_labelled_images
from mars_megatron.evaluation.results import read_report
from mars_megatron.evaluation.t2i_compbench.prompt_files import read_prompt_file
from mars_megatron.evaluation.texts import read_sentences, read_texts
from mars_megatron.files.plain_text import check_unicode, parse_json, read_json, read_lines, read_text
from mars_megatron.gallery.document_gallery import DocumentPrompt, read_document_prompts
from mars_megatron.gallery.prompts import read_prompts
from tests.support.command_lines import load_tool
from tests.support.tiny_run import TinyRun, write_run

# What a file may be, its words among the good lines.
BAD: dict[str, tuple[Callable[[str], bytes], str]] = {
    "latin-1": (
        lambda text: text.encode() + "caf\xe9\n".encode("latin-1"),
        "line 2 is not UTF-8 (byte 0xe9); accepted",
    ),
    "gbk": (lambda text: text.encode() + "红色".encode("gbk"), "line 2 is not UTF-8 (byte 0xba)"),
    "cut off": (lambda text: text.encode() + "三".encode()[:2], "line 2 is not UTF-8"),
    "after a mark": (lambda text: b"\xef\xbb\xbf" + text.encode() + b"\xff", "line 2 is not UTF-8 (byte 0xff)"),
    "surrogates": (lambda text: text.encode() + b"\xed\xa0\x80", "line 2 is not UTF-8 (byte 0xed)"),
    "utf-16": (lambda text: text.encode("utf-16"), "is UTF-16; accepted: UTF-8, as `iconv -f UTF-16 -t UTF-8"),
    "utf-16-be": (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "is UTF-16"),
    "utf-32": (lambda text: text.encode("utf-32"), "is UTF-32"),
    "utf-16 without a mark": (lambda text: text.encode("utf-16-le"), "line 1 has a NUL character: it is UTF-16, or"),
    "nul": (lambda text: text.encode() + b"a\0b", "line 2 has a NUL character"),
}
PROMPT, FACT = '{"prompt": "a red square"}\n', '{"prompt": "a red", "answer": "square"}\n'
DOCUMENT = '{"parts": [{"text": "a red square"}]}\n'
SAMPLE = '{"image": "0.png", "captions": ["a red square"], "label": "0"}\n'
# What is read from which file: the name, a good line, and what reads it.
READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "prompts": ("my prompts.txt", "a red square\n", read_prompts),
    "prompts, JSON": ("prompts.jsonl", PROMPT, read_prompts),
    "texts": ("texts.txt", "a red square\n", read_sentences),
    "texts, JSON": ("texts.jsonl", FACT, read_sentences),
    "captions": ("captions.jsonl", SAMPLE, lambda path: read_texts(path.parent)),
    "labels": ("captions.jsonl", SAMPLE, lambda path: list_labelled_images(path.parent)),
    "facts": ("facts.jsonl", FACT, read_facts),
    "words": ("words.json", '{"0": ["red"]}\n', LabelWords.read),
    "documents": ("documents.jsonl", DOCUMENT, lambda path: read_document_prompts(path, DocumentPrompt())),
    "configuration": ("run.yaml", "training: {steps: 3}\n", read_yaml),
    "benchmark": ("prompts.jsonl", '{"prompt": "a red square"}\n', lambda path: read_scene_prompts(path.parent)),
    "t2i-compbench": ("color_val.txt", "a red square\n", lambda path: read_prompt_file(path)),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_utf_8_is_refused_by_file_and_line(tmp_path: Path, reader: str, kind: str) -> None:
    name, line, read = READERS[reader]
    make, words = BAD[kind]
    (tmp_path / name).write_bytes(make(line))
    with pytest.raises(ValueError) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("reader", [name for name in READERS if name not in ("benchmark",)])
def test_marks_and_ends_of_lines_are_no_text(tmp_path: Path, reader: str) -> None:
    name, line, read = READERS[reader]
    (tmp_path / name).write_bytes(line.encode())
    wanted = read(tmp_path / name)
    for content in (
        "\ufeff" + line,
        line.replace("\n", "\r\n"),
        "\ufeff" + line.replace("\n", "\r"),
        line.rstrip("\n"),
    ):
        (tmp_path / name).write_bytes(content.encode())
        found = read(tmp_path / name)
        assert str_of(found) == str_of(wanted)


def str_of(value: Any) -> str:
    return str(value.labels if isinstance(value, LabelWords) else value)


@pytest.mark.parametrize("reader", [name for name in READERS if READERS[name][0].endswith((".jsonl", ".json"))])
def test_halves_of_surrogate_pairs_are_refused(tmp_path: Path, reader: str) -> None:
    name, line, read = READERS[reader]
    (tmp_path / name).write_text(line.replace("red", "\\ud83d"))
    with pytest.raises(ValueError, match=r"not Unicode text: it has '\\ud83d', a byte that is not UTF-8 or half of a"):
        read(tmp_path / name)


def test_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff一\r\n\r\n  \u2028x\ny".encode())
    assert read_text(file) == "一\n\n  \u2028x\ny"
    assert list(read_lines(file)) == [
        (f"{file} line 1", "一"),
        (f"{file} line 3", "  \u2028x"),
        (f"{file} line 4", "y"),
    ]
    file.write_bytes(b"")
    assert read_text(file) == "" and list(read_lines(file)) == []
    with pytest.raises(ValueError, match=f"words {tmp_path} is a folder; give a file"):
        read_json(tmp_path, "words")
    with pytest.raises(ValueError, match=f"words {tmp_path}/none does not exist"):
        read_json(tmp_path / "none", "words")
    with pytest.raises(ValueError, match="here is not JSON"):
        parse_json("[" * 100_000, "here")
    assert parse_json('["\\ud83d\\ude00", "\\\\ud83d"]', "here") == ["😀", "\\ud83d"]
    assert check_unicode("é😀", "here") == "é😀"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("tiny"))


def refused(code: int, capsys: Any, *words: str) -> None:
    error = capsys.readouterr().err
    assert code == 2 and all(word in error for word in words), error


def test_the_tools_name_the_file(run: TinyRun, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "a file.txt"
    bad.write_bytes(b"good\ncaf\xe9\n")
    documents = tmp_path / "documents.jsonl"
    documents.write_bytes(b'{"parts": [{"text": "caf\xe9"}]}\n')
    generate, evaluate, interleave = (load_tool(name).main for name in ("generate", "evaluate", "interleave"))
    common = ["--output", str(tmp_path / "out")]
    refused(generate(["--checkpoint", run.checkpoint, "--prompts", str(bad), *common]), capsys, f"{bad} line 2 is not")
    line = ["--checkpoint", run.checkpoint, "--prompt", "caf\udce9", *common]  # as a shell of another encoding gives it
    refused(generate(line), capsys, "--prompt 'caf\\udce9' is not Unicode text")
    line = ["--checkpoint", run.checkpoint, "--prompts", str(documents), *common]
    refused(interleave(line), capsys, f"{documents} line 1 is not UTF-8 (byte 0xe9)")
    refused(evaluate(["facts", run.checkpoint, "--facts", str(documents)]), capsys, f"{documents} line 1 is not UTF-8")
    refused(evaluate(["all", run.checkpoint, "--config", str(bad)]), capsys, f"configuration file {bad} line 2 is not")
    refused(evaluate(["all", run.checkpoint, "--config", str(tmp_path)]), capsys, f"file {tmp_path} is a folder")
    line = ["prompt_fidelity", run.checkpoint, "--prompts", str(bad), "--images", run.images]
    refused(evaluate(line), capsys, f"{bad} line 2 is not UTF-8")
    monkeypatch.setattr(sys, "argv", ["train", f"--config={bad}"])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    refused(stopped.value.code, capsys, f"configuration file {bad} line 2 is not UTF-8")  # type: ignore[arg-type]
    half = tmp_path / "half.yaml"
    half.write_text('logging: {sample_prompts: ["caf\\uD83D"]}')
    for setting, option in (
        ("logging.sample_prompts", f"--config={half}"),
        ("checkpoint.dir", "--checkpoint.dir=\udce9"),
    ):
        monkeypatch.setattr(sys, "argv", ["train", option])
        with pytest.raises(SystemExit) as stopped:
            train.main()
        words = f"{setting} is", "accepted: text that can be written as UTF-8"
        refused(stopped.value.code, capsys, *words)  # type: ignore[arg-type]


def test_a_prompt_after_a_mark_is_the_prompt(run: TinyRun, tmp_path: Path) -> None:
    file, folder = tmp_path / "prompts.txt", tmp_path / "images"
    file.write_bytes("\ufeffa red square\r\n".encode())
    line = ["--checkpoint", run.checkpoint, "--prompts", str(file), "--output", str(folder), "--num-images", "1"]
    assert load_tool("generate").main(line) == 0
    (written,) = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(written)["prompt"] == "a red square"


def test_a_damaged_report_says_how(run: TinyRun, tmp_path: Path, capsys: Any) -> None:
    facts, report = tmp_path / "facts.jsonl", tmp_path / "out" / "facts.json"
    facts.write_text(FACT)
    line = ["facts", run.checkpoint, "--facts", str(facts), "--output", str(report.parent)]
    report.parent.mkdir()
    for content, words in (
        (b"{\n\xff}", "line 2 is not UTF-8"),
        (b"\xff\xfe{\0}\0", "is UTF-16"),
        (b"", "is not JSON"),
        (b"[]", "is no result"),
    ):
        report.write_bytes(content)
        refused(load_tool("evaluate").main(line), capsys, f"{report} is no result of an evaluation", words)
    report.unlink()
    assert load_tool("evaluate").main(line) == 0
    report.write_bytes(b"\xef\xbb\xbf" + report.read_bytes())  # as an editor may save it
    assert read_report(report).suite == "facts"
