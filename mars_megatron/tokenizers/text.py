"""Text tokenizers behind one interface. The ids are those of the file, read by its own library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Protocol

import sentencepiece
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from mars_megatron.files.foreign import refuse_foreign_tokenizer
from mars_megatron.tokenizers.tokenizer_files import (
    CONFIG,
    TOKENIZER_JSON,
    added_tokens,
    deciding_file,
    read_table,
    says_bos,
    special_names,
    text_fingerprint,
)


class TextTokenizer(Protocol):
    """The interface of a text tokenizer.

    Attributes:
        path: The given path.
        file: The file that decides the ids.
        fingerprint: sha256 of the file, or of the tokenizer files of a folder.
        content: sha256 of the file, eos_id and bos_id, which decide the ids. The same in every copy.
        size: Every id, of special tokens too, lies in [0, size).
        rows: The ids of texts, eos_id and bos_id lie in [0, rows): the least number of rows of an embedding table.
        names: The tokens that have a name: eos_token, bos_token, unk_token, pad_token, ...
        eos_id: End of text.
        bos_id: Begin of text, or None. It is never added to a text.
        unk_id: The id of unknown text; None if every text has other ids.
        wants_bos: The files say that the language model expects bos_id in front of every text.
    """

    path: str
    file: Path
    fingerprint: str
    size: int
    names: dict[str, str]
    eos_id: int
    bos_id: int | None
    unk_id: int | None
    wants_bos: bool

    @property
    def content(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without begin or end tokens. Text that looks like a special token is treated as text."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of many texts, faster than one by one; on one thread if the library allows it."""

    def decode(self, ids: list[int]) -> str:
        """The text of the ids, without special tokens."""

    def tokens_from(self, first: int) -> dict[str, int]:
        """Tokens whose ids are at least `first`."""


class SentencePieceTokenizer:
    """A SentencePiece model, as SentencePiece reads it.

    Args:
        path: The .model file, or a folder with one. Tokens that a folder adds to the pieces (added_tokens.json,
            added_tokens_decoder of tokenizer_config.json) have ids, and may be its eos_token or bos_token; no text
            makes them.

    Raises:
        ValueError: The file is no SentencePiece model, or there is no end-of-text id.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        folder = Path(path) if Path(path).is_dir() else None
        self.file = Path(path) if folder is None else deciding_file(folder)
        self.fingerprint = text_fingerprint(path)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(self.file))
        except (RuntimeError, OSError) as error:
            raise ValueError(_no_sentencepiece(self.file, error)) from error
        self._num_pieces = self._processor.vocab_size()
        added = added_tokens(folder) if folder else {}
        self._added = {content: known for content, known in added.items() if known[0] >= self._num_pieces}
        self._plain = {number: content for content, (number, special) in self._added.items() if not special}
        self.size = max([self._num_pieces - 1, *(number for number, _ in self._added.values())]) + 1
        said = special_names(folder) if folder else {}
        named = {name: (token, self._id(token)) for name, token in (self._own_names() | said).items()}
        self.names = {name: token for name, (token, number) in named.items() if number is not None}
        if "eos_token" in said and "eos_token" not in self.names:
            raise ValueError(
                f"text tokenizer {path} names the eos_token {said['eos_token']!r}, which is neither a piece of "
                f"{self.file.name} nor an added token; name another one in {CONFIG}"
            )
        eos_id = named.get("eos_token", ("", None))[1]
        if eos_id is None:
            raise ValueError(f"text tokenizer {path} has no end-of-sentence id; train it with one")
        self.eos_id: int = eos_id
        self.bos_id = named.get("bos_token", ("", None))[1]
        self.unk_id: int | None = self._processor.unk_id()
        self.wants_bos = bool(folder and says_bos(folder)) and self.bos_id is not None

    def _own_names(self) -> dict[str, str]:
        model = self._processor
        own = {"unk": model.unk_id(), "bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id()}
        return {f"{name}_token": model.id_to_piece(number) for name, number in own.items() if number >= 0}

    def _id(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token][0]
        number = self._processor.piece_to_id(token)  # that of the unknown piece where it is none
        return number if self._processor.id_to_piece(number) == token else None

    @property
    def content(self) -> str:
        return _content(self)

    @cached_property
    def rows(self) -> int:
        numbers = list(range(self._num_pieces))
        out = zip(self._processor.is_control(numbers), self._processor.is_unused(numbers), strict=True)
        made = (number for number, reasons in zip(numbers, out, strict=True) if not any(reasons))
        return _rows(self, made)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        known = [number for number in ids if number < self._num_pieces or number in self._plain]
        texts = []
        for is_piece, group in groupby(known, lambda number: number < self._num_pieces):
            run = list(group)
            texts.append(self._processor.decode(run) if is_piece else "".join(self._plain[number] for number in run))
        return "".join(texts)

    def tokens_from(self, first: int) -> dict[str, int]:
        pieces = {self._processor.id_to_piece(number): number for number in range(first, self._num_pieces)}
        return pieces | {content: number for content, (number, _) in self._added.items() if number >= first}


class JsonTokenizer:
    """The tokenizer.json of a folder, as the tokenizers library reads it.

    What it stores of cutting and filling up texts, and of tokens around them, is left out. Added tokens that it does
    not mark as special are found in texts, as it says.

    Args:
        path: The folder. tokenizer_config.json and special_tokens_map.json say which tokens are eos_token and
            bos_token, nothing else. Where neither names an eos_token it is </s> or <|endoftext|>, if the file has one
            of them.

    Raises:
        ValueError: The file cannot be read or draws its ids at random, or there is no end-of-text id.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.file = Path(path) / TOKENIZER_JSON
        self.fingerprint = text_fingerprint(path)
        try:
            self._tokenizer = Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"text tokenizer {self.file} cannot be read by the tokenizers library: {error}") from error
        if getattr(self._tokenizer.model, "dropout", None):
            raise ValueError(
                f"{self.file}: model.dropout is {self._tokenizer.model.dropout}; set it to null, or a text has other "
                "ids every time"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as text
        self.size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        said = special_names(Path(path))
        if "eos_token" not in said and len(ends := self._usual_ends()) == 1:
            said["eos_token"] = ends[0]
        ids = {name: self._tokenizer.token_to_id(token) for name, token in said.items()}
        self.names = {name: token for name, token in said.items() if ids[name] is not None}
        eos_id, self.bos_id = ids.get("eos_token"), ids.get("bos_token")
        if eos_id is None:
            raise ValueError(self._no_eos(said.get("eos_token")))
        self.eos_id: int = eos_id
        self.unk_id = self._unknown_id()
        self._named = set(ids.values())
        wants = says_bos(Path(path))
        self.wants_bos = self.bos_id is not None and (self._puts_bos() if wants is None else wants)

    def _unknown_id(self) -> int | None:
        model = self._tokenizer.model
        if isinstance(model, Unigram):  # which does not tell
            number: int | None = read_table(self.file)["model"].get("unk_id")
            return number
        return self._tokenizer.token_to_id(model.unk_token) if model.unk_token else None

    def _usual_ends(self) -> list[str]:
        """Special tokens that classes of transformers take for the end where nothing is said (GPT-2's, Llama's)."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special and token.content in ("<|endoftext|>", "</s>")]

    def _puts_bos(self) -> bool:
        return self.bos_id in self._tokenizer.encode("", add_special_tokens=True).ids

    def _no_eos(self, token: str | None) -> str:
        if token is not None:
            return (
                f"text tokenizer {self.path} names the eos_token {token!r}, which {self.file.name} does not have; name "
                f"another one in {CONFIG}"
            )
        known = ""
        for name in ("generation_config.json", "config.json"):
            number = read_table(Path(self.path) / name).get("eos_token_id")
            content = self._tokenizer.id_to_token(number) if isinstance(number, int) else None
            if content is not None and not known:
                known = f" ({name} says {number}, which is {json.dumps(content, ensure_ascii=False)})"
        return f"text tokenizer {self.path} names no eos_token; set it in {CONFIG}{known}"

    @property
    def content(self) -> str:
        return _content(self)

    @cached_property
    def rows(self) -> int:
        added = self._tokenizer.get_added_tokens_decoder()
        # The model may have special tokens among its own, for texts or not: that shows where one spells them out.
        special = {number: token.content for number, token in added.items() if token.special}
        made = {*self._tokenizer.get_vocab(with_added_tokens=False).values(), *added} - special.keys()
        return _rows(self, made | {number for number, token in special.items() if number in self.encode(token)})

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode([number for number in ids if number not in self._named])

    def tokens_from(self, first: int) -> dict[str, int]:
        return {content: number for content, number in self._tokenizer.get_vocab().items() if number >= first}


def load_text_tokenizer(path: str | Path) -> TextTokenizer:
    """Open a text tokenizer of one of `KINDS`: a SentencePiece .model file, or a folder with tokenizer.json or, where
    there is none, a .model file.

    Raises:
        ValueError: The path does not exist or is no such tokenizer; the message says what it is and what to do.
    """
    path = Path(path)
    refuse_foreign_tokenizer(path)
    if path.name == TOKENIZER_JSON and path.is_file():
        raise ValueError(f"text tokenizer {path} is a file; give its folder, whose {CONFIG} names the eos_token")
    return next(open_kind for recognises, open_kind in KINDS if recognises(path))(path)


def _has_json(path: Path) -> bool:
    return path.is_dir() and deciding_file(path).name == TOKENIZER_JSON


# How a path is recognised, and what opens it, in the order in which they are tried. The last one takes what is left,
# and says what is wrong with it.
Kind = tuple[Callable[[Path], bool], Callable[[Path], TextTokenizer]]
KINDS: list[Kind] = [(_has_json, JsonTokenizer), (lambda path: True, SentencePieceTokenizer)]


def _rows(tokenizer: TextTokenizer, made: Iterable[int]) -> int:
    return max(max(made, default=-1), tokenizer.eos_id, -1 if tokenizer.bos_id is None else tokenizer.bos_id) + 1


def _content(tokenizer: TextTokenizer) -> str:
    said = f"\0{tokenizer.eos_id}\0{tokenizer.bos_id}".encode()
    return hashlib.sha256(tokenizer.file.read_bytes() + said).hexdigest()


def _no_sentencepiece(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        first = opened.read(200).split(b"\n")[0].split()
    if len(first) == 2 and first[1] == b"0":  # a string in base 64 and its rank
        return (
            f"text tokenizer {file} is a file of tiktoken, not a SentencePiece model, and does not say how a text is "
            "cut; give the folder of the same model that has a tokenizer.json"
        )
    return f"text tokenizer {file} is not a SentencePiece model: {error}"
