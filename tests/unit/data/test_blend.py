"""Shares of corpora and tasks, and the order that they give."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mars_megatron.config.schema import CorpusConfig, DataConfig, ImageConfig, RunConfig, TaskWeights, VocabularyConfig
from mars_megatron.data.blend import Blend, validation_streams
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.data.planning import DROPPED
from mars_megatron.data.store import Store
from mars_megatron.sequence.code_order import code_order
from mars_megatron.sequence.samples import I2T, INTERLEAVED, SR, T2I, TASKS, TEXT_ONLY
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.synthetic_index import CODEBOOK_SIZE, TEXT_SIZE, write_synthetic

ALL = TaskWeights(t2i=0.3, i2t=0.2, sr=0.1, text=0.15, interleaved=0.25)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Prefixes of a corpus of images, one of all kinds, and one of text."""
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "images": write_synthetic(folder / "images", ["image"] * 500, seed=1),
        "mixed": write_synthetic(folder / "mixed", ["image", "pair", "text", "interleaved"] * 30, seed=2, weights=True),
        "text": write_synthetic(folder / "text", ["text"] * 40, seed=3),
    }


def run(**data) -> RunConfig:
    base = RunConfig(vocabulary=VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE))
    settings = {"micro_batch_tokens": RESERVED_ROWS + 200, "validation_fraction": 0.1, "too_long": "skip"} | data
    return replace(base, data=replace(base.data, **settings))


def blend_of(corpora, **data) -> RunConfig:
    entries = (
        CorpusConfig(corpora["images"], 5.0),
        CorpusConfig(corpora["mixed"], 3.0, ALL),
        CorpusConfig(corpora["text"], 2.0, TaskWeights(t2i=0.0, i2t=0.0, text=1.0)),
    )
    return run(**({"blend": entries, "tasks": TaskWeights(t2i=0.6, i2t=0.4)} | data))


def first_samples(config: RunConfig, num: int) -> np.ndarray:
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    found, size, index = [], 0, 0
    while size < num:
        found.append(batches.rounds.samples(index))
        size += len(found[-1])
        index += 1
    return np.concatenate(found)[:num]


def test_super_resolution_is_trained_in_the_order_that_is_drawn(tmp_path):
    prefix = write_synthetic(tmp_path / "pairs", ["pair"] * 20, seed=4)
    image = ImageConfig(resolution=16, low_resolution=8, next_k=4, order="regions")
    only_sr = {"path": prefix, "tasks": TaskWeights(t2i=0.0, i2t=0.0, sr=1.0), "micro_batch_tokens": RESERVED_ROWS + 40}
    for split in ("train", "validation"):
        config = replace(run(**only_sr), image=image)
        vocabulary = Vocabulary.from_config(config)
        batches = open_micro_batches(config, vocabulary, split=split)
        ((document, *_),) = batches.rounds.samples(0).tolist()
        (_, targets, mask) = batches.samples(0)[0]
        codes = Store(prefix).codes(document)
        assert vocabulary.id_to_code(targets[mask][:-1]).tolist() == codes[code_order(image)].tolist() != codes.tolist()
        # Of the batch itself: 17 visual targets, the first four from the start slots.
        batch = batches[0]
        slots = {vocabulary.image_row(slot) for slot in vocabulary.start_slots}
        first = batch.input_ids[batch.loss_rows[:4]].tolist()
        assert set(first) == slots and batch.num_visual_targets == 17
        assert batch.targets[:4].tolist() == codes[code_order(image)][:4].tolist()


def shares(values: np.ndarray, num: int) -> np.ndarray:
    return np.bincount(values, minlength=num) / len(values)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_realised_shares_are_the_weights_over_ten_thousand_samples(corpora, seed):
    samples = first_samples(blend_of(corpora, seed=seed), 10_000)
    assert np.abs(shares(samples["corpus"], 3) - [0.5, 0.3, 0.2]).max() < 0.005
    task = samples["task"] & ~np.uint8(DROPPED)
    wanted = np.zeros(len(TASKS))
    wanted[T2I], wanted[I2T] = 0.5 * 0.6 + 0.3 * 0.3, 0.5 * 0.4 + 0.3 * 0.2
    wanted[SR], wanted[TEXT_ONLY], wanted[INTERLEAVED] = 0.3 * 0.1, 0.3 * 0.15 + 0.2, 0.3 * 0.25
    assert np.abs(shares(task, len(TASKS)) - wanted).max() < 0.005
    of_mixed = task[samples["corpus"] == 1]
    assert np.abs(shares(of_mixed, len(TASKS)) - [0.3, 0.2, 0.1, 0.15, 0.25]).max() < 0.01


def test_every_stretch_has_the_shares(corpora):
    samples = first_samples(blend_of(corpora), 4000)
    for part in np.split(samples, 8):
        assert np.abs(shares(part["corpus"], 3) - [0.5, 0.3, 0.2]).max() < 0.06


def test_blended_corpora_go_through_their_epochs(corpora):
    """Any documents as many as an epoch has, in the order of their stream, are all different."""
    config = blend_of(corpora)
    stores = [Store(corpus.path) for corpus in config.data.blend]
    blend = Blend(stores, config.data)
    assert sum(part.share for part in blend.parts) == 1
    assert [part.num_documents for part in blend.parts if part.corpus == 0] == [450]
    starts = [[stream.start for stream in blend.streams(number)] for number in range(4)]
    ends = [[stream.start + stream.count for stream in blend.streams(number)] for number in range(4)]
    assert starts[0] == [0] * len(blend.parts) and starts[1:] == ends[:-1], "each round goes on where the last ended"


def test_a_pair_serves_images_and_super_resolution(corpora):
    config = run(path=corpora["mixed"], tasks=TaskWeights(t2i=0.5, i2t=0.0, sr=0.5))
    samples = first_samples(config, 3000)
    store = Store(corpora["mixed"])
    kinds = np.array([store.kind(document) for document in samples["document"].tolist()])
    task = samples["task"] & ~np.uint8(DROPPED)
    assert set(kinds[task == SR].tolist()) == {2} and set(kinds[task == T2I].tolist()) == {1, 2}


def test_held_out_documents_are_never_trained(corpora):
    config = blend_of(corpora)
    trained = first_samples(config, 6000)
    held_out = open_micro_batches(config, Vocabulary.from_config(config), split="validation")
    validated = held_out.rounds.round(0).samples
    pairs = [set(zip(one["corpus"].tolist(), one["document"].tolist(), strict=True)) for one in (trained, validated)]
    assert not pairs[0] & pairs[1] and len(pairs[1]) > 50


def test_a_corpus_without_weight_is_only_watched(corpora):
    entries = (CorpusConfig(corpora["images"]), CorpusConfig(corpora["text"], 0.0))
    config = run(blend=entries)
    assert set(first_samples(config, 2000)["corpus"].tolist()) == {0}
    streams = validation_streams([Store(corpus.path) for corpus in entries], config.data)
    assert {(stream.corpus, stream.tasks) for stream in streams} == {(0, (T2I,)), (0, (I2T,)), (1, (TEXT_ONLY,))}
    assert [stream.num_documents for stream in streams] == [50, 50, 40], "all of it"
    told = open_micro_batches(config, Vocabulary.from_config(config)).describe()
    assert "data: 40 text, 500 image documents of 2 corpora; 40 of them are not trained" in told
    assert "samples: t2i 50.0%, i2t 50.0%" in told


def test_other_weights_are_relative(corpora):
    one, other = (blend_of(corpora, tasks=TaskWeights(t2i=w * 0.6, i2t=w * 0.4)) for w in (1.0, 10.0))
    assert first_samples(one, 500).tolist() == first_samples(other, 500).tolist()


def test_nothing_to_train_on_is_said(corpora):
    config = run(path=corpora["text"])
    with pytest.raises(ValueError, match=r"data\.tasks is .* \(36 text\) serve text; give one of these a weight"):
        open_micro_batches(config, Vocabulary.from_config(config))


@pytest.mark.parametrize("kind", ["text tokenizer", "image tokenizer"])
@pytest.mark.parametrize("place", ["blend", "validation"])
def test_corpora_of_several_tokenizers_are_refused(corpora, tmp_path, kind, place):
    other = write_synthetic(tmp_path / "other", ["image"] * 20)
    manifest = tmp_path / "other.json"
    values = json.loads(manifest.read_text())
    values[kind.replace(" ", "_")]["fingerprint"] = "abc"
    manifest.write_text(json.dumps(values))
    config = run(blend=(CorpusConfig(corpora["images"]), CorpusConfig(other)))
    if place == "validation":
        config = run(path=corpora["images"], validation_path=other)
    with pytest.raises(ValueError, match=rf"other was made with the {kind} .*images with another one"):
        open_micro_batches(config, Vocabulary.from_config(config))


def test_a_separate_validation_index_and_corpora_without_weight_are_both_validated(corpora, tmp_path):
    held_out = write_synthetic(tmp_path / "held_out", ["image"] * 20)
    super_resolution = TaskWeights(t2i=0.0, i2t=0.0, sr=1.0)
    entries = (CorpusConfig(corpora["mixed"], 1.0, super_resolution), CorpusConfig(corpora["text"], 0.0))
    config = run(blend=entries, validation_path=corpora["mixed"])
    batches = open_micro_batches(config, Vocabulary.from_config(config), split="validation")
    samples = batches.rounds.round(0).samples
    found = {(corpus, task) for corpus, task in zip(samples["corpus"].tolist(), samples["task"].tolist(), strict=True)}
    assert found == {(0, SR), (0, TEXT_ONLY), (1, TEXT_ONLY)}, "the tasks that are trained, and text"
    config = run(path=corpora["images"], validation_path=held_out)
    batches = open_micro_batches(config, Vocabulary.from_config(config), split="validation")
    assert sorted(set(batches.rounds.round(0).samples["document"].tolist())) == list(range(20))


def test_tiny_shares_get_their_samples_in_the_end(corpora):
    entries = (CorpusConfig(corpora["images"], 1.0), CorpusConfig(corpora["text"], 1e-4, ALL))
    config = run(blend=entries)
    blend = Blend([Store(corpus.path) for corpus in entries], config.data)
    taken = sum(stream.count for number in range(100) for stream in blend.streams(number) if stream.corpus == 1)
    assert abs(taken - 100 * blend.round_samples * 1e-4 / (1 + 1e-4)) <= 1


def test_default_is_one_corpus():
    assert DataConfig().blend == ()
