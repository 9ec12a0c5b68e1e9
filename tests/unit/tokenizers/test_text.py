import pytest
import sentencepiece

from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.train_text import train_text_tokenizer

LINES = ["a red square", "a blue circle", "three plus four is seven", "one two five six nine", "zero comes before",
         "everything has its own name here", "what a quick jump", "一个手写数字三", "三加四等于七"] * 20  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A tokenizer folder as transformers writes it: whole words, and an end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for line in LINES for word in line.split()})
    core = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1} | {w: i + 2 for i, w in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    # what it would add by itself must not get into the ids
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    folder = tmp_path_factory.mktemp("hf") / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_training_writes_a_tokenizer_that_keeps_the_text(corpus, tmp_path):
    trained = train_text_tokenizer(corpus, tmp_path / "new" / "t.model", vocab_size=48, symbols=["三", "▁seven"])
    tokenizer = load_text_tokenizer(tmp_path / "new" / "t.model")
    assert tokenizer.size == 48 and (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.fingerprint == trained.fingerprint
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["t.model"]
    for line in set(LINES):
        ids = tokenizer.encode(line)
        assert 0 <= min(ids) and max(ids) < 48 and tokenizer.eos_id not in ids
        assert tokenizer.decode(ids) == line
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == line
    pieces = sentencepiece.SentencePieceProcessor(model_file=tokenizer.path).encode("is seven 三三", out_type=str)
    assert pieces.count("三") == 2 and "▁seven" in pieces


def test_training_is_deterministic_and_the_fingerprint_tells_models_apart(corpus, tmp_path):
    sizes = {"a": 46, "b": 46, "c": 47}
    models = {n: train_text_tokenizer(corpus, tmp_path / f"{n}.model", vocab_size=s) for n, s in sizes.items()}
    assert models["a"].fingerprint == models["b"].fingerprint != models["c"].fingerprint
    bpe = train_text_tokenizer(corpus, tmp_path / "bpe.model", vocab_size=46, model_type="bpe")
    assert bpe.encode("three plus four") != models["a"].encode("three plus four")


def test_training_errors_name_the_setting_and_leave_nothing(corpus, tmp_path):
    (tmp_path / "empty.txt").touch()
    output = tmp_path / "out" / "t.model"
    with pytest.raises(ValueError, match=r"no tokenizer of 9999 ids .* <= \d+"):
        train_text_tokenizer(corpus, output, vocab_size=9999)
    with pytest.raises(ValueError, match="empty.txt does not exist or is empty"):
        train_text_tokenizer(tmp_path / "empty.txt", output, vocab_size=46)
    with pytest.raises(ValueError, match="character coverage is 2"):
        train_text_tokenizer(corpus, output, vocab_size=46, character_coverage=2.0)
    with pytest.raises(ValueError, match="symbols are"):
        train_text_tokenizer(corpus, output, vocab_size=46, symbols=["a,b"])
    assert not output.parent.exists()


def test_fewer_ids_where_the_text_gives_fewer(corpus, tmp_path):
    tokenizer = train_text_tokenizer(corpus, tmp_path / "t.model", vocab_size=9999, at_most=True)
    assert 46 < tokenizer.size < 9999


def test_hugging_face_folder(hugging_face):
    tokenizer = load_text_tokenizer(hugging_face)
    ids = tokenizer.encode("a red circle")
    assert len(ids) == 3 and tokenizer.decode([*ids, tokenizer.eos_id]) == "a red circle"
    assert (tokenizer.eos_id, tokenizer.bos_id) == (0, None)
    assert tokenizer.size == len({w for line in LINES for w in line.split()}) + 2


def test_a_batch_is_encoded_as_one_by_one(hugging_face, corpus, tmp_path):
    train_text_tokenizer(corpus, tmp_path / "t.model", vocab_size=48)
    texts = [
        *LINES[:10],
        "",
        " ",
        "\u3000",
        "unknown words \U0001f600",
        "a\x00b",
        "a" * 5000,
        "<eos> a",
        "  a  red \n\t",
    ]
    for path in (tmp_path / "t.model", hugging_face):
        tokenizer = load_text_tokenizer(path)
        batch = tokenizer.encode_batch(texts)
        assert batch == [tokenizer.encode(text) for text in texts] and all(type(ids) is list for ids in batch)
        assert tokenizer.encode_batch([]) == [] and tokenizer.encode_batch(["a"]) == [tokenizer.encode("a")]


def test_special_tokens_in_a_text_are_text(tmp_path):
    """Of whole bytes, so that every text can be written without them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"<|end|>": 0} | {letter: i + 1 for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(tmp_path)
    tokenizer = load_text_tokenizer(tmp_path)
    for text in ("a<|end|>b", "<|end|>", "a <|end|> ."):
        ids = tokenizer.encode(text)
        assert tokenizer.eos_id not in ids and len(ids) == len(text)
        assert tokenizer.encode_batch([text, "a"])[0] == ids
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == text


def test_fingerprint_of_a_folder_ignores_model_weights(hugging_face, tmp_path):
    import shutil

    folder = shutil.copytree(hugging_face, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"weights")
    before = load_text_tokenizer(hugging_face).fingerprint
    assert load_text_tokenizer(folder).fingerprint == before
    config = folder / "tokenizer.json"
    config.write_text(config.read_text().replace("circle", "cercle"))
    assert load_text_tokenizer(folder).fingerprint != before


def test_no_eos_token_is_refused(hugging_face, tmp_path):
    import shutil

    folder = shutil.copytree(hugging_face, tmp_path / "copy")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            (folder / name).write_text((folder / name).read_text().replace('"eos_token"', '"no_token"'))
    with pytest.raises(ValueError, match="names no eos_token"):
        load_text_tokenizer(folder)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "bad.model").write_bytes(b"not a model")
    (tmp_path / "folder").mkdir()
    for name, match in (
        ("bad.model", "not a SentencePiece model"),
        ("none", "does not exist"),
        ("folder", "no tokenizer"),
    ):
        with pytest.raises(ValueError, match=match):
            load_text_tokenizer(tmp_path / name)
