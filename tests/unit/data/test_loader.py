from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from mars_megatron.config.schema import (
    DataConfig,
    ImageConfig,
    ParallelConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)
from mars_megatron.data import blend
from mars_megatron.data.hashing import split_slots
from mars_megatron.data.loader import flat_batches
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.packing import RESERVED_ROWS
from mars_megatron.data.planning import DROPPED
from mars_megatron.sequence.batch import unflatten
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.plans import check_plan

BUDGET = RESERVED_ROWS + 64


@pytest.fixture(autouse=True, scope="module")
def small_rounds():
    """A round of a single stream is one epoch, however few documents there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "MIN_ROUND_SAMPLES", 1)
        yield


@pytest.fixture
def config(index, text_model, image_model):
    return RunConfig(
        vocabulary=VocabularyConfig(text_size=64, codebook_size=16),
        image=ImageConfig(resolution=8, downsample=4),
        data=DataConfig(
            path=str(index),
            text_tokenizer=str(text_model),
            image_tokenizer=str(image_model),
            micro_batch_tokens=BUDGET,
            validation_fraction=0.2,
            tasks=TaskWeights(t2i=0.4, i2t=0.4, text=0.2),
        ),
        training=TrainingConfig(global_batch_size=2),
    )


def with_data(config, **changes):
    return replace(config, data=replace(config.data, **changes))


def vocabulary(config):
    return Vocabulary.from_config(config)


def key(batch):
    """Everything of a batch that a step sees."""
    return (
        batch.index,
        tuple(batch.input_ids.tolist()),
        tuple(batch.loss_rows.tolist()),
        tuple(batch.targets.tolist()),
        tuple(batch.plan.cu_seqlens.tolist()),
    )


def load(config, *, split="train", row_multiple=1, **arguments):
    """The micro-batches of one data-parallel rank, on the CPU."""
    batches = open_micro_batches(config, vocabulary(config), split=split, row_multiple=row_multiple)
    workers = config.data.num_workers if split == "train" else 0
    flat = flat_batches(batches, config, num_workers=workers, **arguments)
    return (unflatten(values, torch.from_numpy(values)) for values in flat)


def read(config, num, **arguments):
    return [key(batch) for batch in islice(load(config, **arguments), num)]


def packs_per_epoch(config, split="train"):
    return open_micro_batches(config, vocabulary(config), split=split).rounds.round(0).num_packs


def drawn(config, number=0, split="train"):
    """(documents, tasks, captions or -1) of a round."""
    samples = open_micro_batches(config, vocabulary(config), split=split).rounds.round(number).samples
    dropped = samples["task"] & DROPPED > 0
    return (
        samples["document"].astype(int),
        samples["task"] & ~np.uint8(DROPPED),
        np.where(dropped, -1, samples["caption"].astype(int)),
    )


def split_documents(num, fraction):
    slots = split_slots(num, np.arange(num))
    held_out = round(fraction * num)
    return np.sort(slots[held_out:]), np.sort(slots[:held_out])


def test_two_iterators_agree_and_every_batch_fits_the_budget(config):
    assert read(config, 8) == read(config, 8)
    for batch in islice(load(config), 8):
        assert batch.plan.num_rows == max(batch.plan.num_text, 1) + max(batch.plan.num_visual, 1) <= BUDGET
        check_plan(batch.plan)


def test_pipeline_stages_exchange_batches_of_exactly_the_budget(config):
    staged = replace(config, parallel=ParallelConfig(pipeline=2))
    for batch in islice(load(staged), 8):
        assert batch.plan.num_rows == BUDGET
        check_plan(batch.plan)


def test_start_is_the_same_as_skipping_also_over_an_epoch_boundary(config):
    config = with_data(config, tasks=TaskWeights(t2i=0.5, i2t=0.5))
    per_epoch = packs_per_epoch(config)
    everything = read(config, 2 * per_epoch + 4)
    assert len(set(everything)) == len(everything)
    for start in (1, 2, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch + 1):
        assert read(config, 3, start=start) == everything[start : start + 3]


@pytest.mark.parametrize("start", [0, 4])
def test_two_ranks_read_what_one_reads(config, start):
    one = read(config, 8, start=start)
    two = [read(config, 4, start=start, dp_rank=rank, dp_size=2) for rank in range(2)]
    assert [batch for pair in zip(*two, strict=True) for batch in pair] == one


def test_a_rank_reads_its_own_numbers_from_any_start(config):
    numbers = {rank: [key[0] for key in read(config, 3, start=3, dp_rank=rank, dp_size=2)] for rank in range(2)}
    assert numbers == {0: [4, 6, 8], 1: [3, 5, 7]}


def test_workers_do_not_change_the_order(config):
    for arguments in ({}, {"start": 5}, {"dp_rank": 1, "dp_size": 2}):
        alone = read(with_data(config, num_workers=0), 12, **arguments)
        assert read(with_data(config, num_workers=2), 12, **arguments) == alone


@pytest.mark.parametrize("row_multiple", [2, 32])
def test_the_row_multiple_does_not_change_the_samples(config, row_multiple):
    one = open_micro_batches(config, vocabulary(config))
    many = open_micro_batches(config, vocabulary(config), row_multiple=row_multiple)
    for index in range(6):
        assert [s[0].tolist() for s in one.samples(index)] == [s[0].tolist() for s in many.samples(index)]
        plan = many[index].plan
        assert plan.num_rows <= BUDGET and plan.padded_text % row_multiple == plan.padded_visual % row_multiple == 0


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("pack_by_task", [True, False])
def test_expert_parallel_ranks_know_each_others_rows(config, pipeline, pack_by_task):
    tasks = TaskWeights(t2i=0.5, i2t=0.5)
    config = with_data(config, pack_by_task=pack_by_task, caption_dropout=0.5, tasks=tasks)
    config = replace(config, parallel=ParallelConfig(pipeline=pipeline))
    alone = open_micro_batches(config, vocabulary(config), row_multiple=2)
    config = replace(config, parallel=ParallelConfig(pipeline=pipeline, expert=2))
    together = open_micro_batches(config, vocabulary(config), row_multiple=2)
    last = 2 * alone.rounds.round(0).num_packs + 4  # over a boundary of rounds, also inside a pair
    flags = set()
    for first in range(0, last - last % 2, 2):
        plans = [alone[index].plan for index in (first, first + 1)]
        flags.add(tuple(plan.image_before_text for plan in plans))
        for index in (first, first + 1):
            plan = together[index].plan
            assert plan.expert_peers == tuple(peer.expert_splits for peer in plans)
            assert plan.image_before_text == any(peer.image_before_text for peer in plans)
            assert torch.equal(plan.sorted_to_sequence, plans[index - first].sorted_to_sequence)
    assert alone[0].plan.expert_peers == ()
    if pack_by_task:
        assert {(True, False), (False, True)} & flags, "the pairs must differ to test anything"


def test_a_start_between_two_expert_parallel_ranks(config):
    config = replace(config, parallel=ParallelConfig(expert=2))
    with pytest.raises(ValueError, match=r"parallel\.expert is 2; accepted: a divisor of the 5 micro-batches"):
        load(config, dp_size=2, start=5)


ONE_TASK = TaskWeights(t2i=1.0, i2t=0.0)


def test_an_epoch_has_every_document_once(config):
    config = with_data(config, tasks=TaskWeights(t2i=0.5, i2t=0.5))  # of the images alone: a single stream
    batches = open_micro_batches(config, vocabulary(config))
    store = batches.stores[0]
    train, validation = split_documents(store.num_documents, 0.2)
    assert len(validation) == 7 and sorted([*train, *validation]) == list(range(36))
    images = [document for document in train.tolist() if store.kind(document)]
    for number in range(3):
        documents, tasks, _ = drawn(config, number)
        assert sorted(documents) == images and set(tasks) == {T2I, I2T}


def test_packs_have_one_task(config):
    round_ = open_micro_batches(config, vocabulary(config)).rounds.round(0)
    tasks = [set((round_.pack(number)["task"] & ~np.uint8(DROPPED)).tolist()) for number in range(round_.num_packs)]
    assert all(len(found) == 1 for found in tasks) and set().union(*tasks) == {T2I, I2T, TEXT_ONLY}


def test_the_order_is_drawn_anew_in_every_epoch(config):
    # one task and no captions: all samples are equally long, so packing keeps the order as drawn
    config = with_data(config, tasks=ONE_TASK, caption_dropout=1.0)
    first, second = drawn(config)[0].tolist(), drawn(config, 1)[0].tolist()
    assert first != second and sorted(first) == sorted(second) != first


def test_epochs_differ_in_task_and_caption(config):
    config = with_data(config, tasks=TaskWeights(t2i=0.5, i2t=0.5))
    epochs = [drawn(config, number) for number in range(2)]
    for column in (1, 2):
        values = [dict(zip(epoch[0].tolist(), epoch[column].tolist(), strict=True)) for epoch in epochs]
        assert values[0] != values[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_leaves_the_random_state_alone(config, num_workers):
    before = torch.random.get_rng_state()
    read(with_data(config, num_workers=num_workers), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seed_changes_the_order(config):
    assert read(config, 2) != read(with_data(config, seed=7), 2)


def test_captions_are_those_of_the_document(config):
    store = open_micro_batches(config, vocabulary(config)).stores[0]
    for document, task, caption in zip(*drawn(config), strict=True):
        assert caption < store.num_captions(document)
        assert task in ((T2I, I2T) if store.kind(document) else (TEXT_ONLY,))


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0), (1.0, 1)])
def test_caption_dropout_concerns_text_to_image_alone(config, dropout, share):
    _, tasks, captions = drawn(with_data(config, caption_dropout=dropout))
    assert ((captions < 0) == ((tasks == T2I) & bool(share))).all()


def test_task_weights_are_shares(config):
    assert set(drawn(with_data(config, tasks=TaskWeights(t2i=0.0, i2t=3.0)))[1].tolist()) == {I2T}
    mixed = with_data(config, tasks=TaskWeights(t2i=3.0, i2t=1.0, text=4.0))
    tasks = np.concatenate([drawn(mixed, number)[1] for number in range(40)])
    assert len(tasks) >= 1000
    assert (
        np.abs(np.bincount(tasks, minlength=4)[[T2I, I2T, TEXT_ONLY]] / len(tasks) - [3 / 8, 1 / 8, 1 / 2]).max()
        < 0.005
    )


def test_validation_takes_every_task_of_each_held_out_document_and_repeats(config):
    config = with_data(config, tasks=TaskWeights(t2i=0.5, i2t=0.5))  # text is watched though it is not trained
    batches = open_micro_batches(config, vocabulary(config), split="validation")
    store = batches.stores[0]
    documents, tasks, captions = drawn(config, split="validation")
    held_out = split_documents(store.num_documents, 0.2)[1].tolist()
    expected = sorted((d, t) for d in held_out for t in ((T2I, I2T) if store.kind(d) else (TEXT_ONLY,)))
    assert sorted(zip(documents, tasks, strict=True)) == expected
    assert captions.min() >= 0  # no dropout
    count = batches.rounds.round(0).num_packs
    twice = read(config, 2 * count, split="validation")
    assert [b[1:] for b in twice[:count]] == [b[1:] for b in twice[count:]]
    assert sorted(drawn(with_data(config, seed=7), split="validation")[0]) == sorted(documents)
    assert {batches[number].task for number in range(3)} == {T2I, I2T, TEXT_ONLY}, "the first few have all tasks"


def test_a_separate_validation_index_is_used_whole(config, index):
    config = with_data(config, validation_path=str(index))
    assert set(drawn(config, split="validation")[0].tolist()) == set(range(36))
    trained = set().union(*(drawn(config, number)[0].tolist() for number in range(4)))
    assert trained == set(range(36)), "nothing is held out then"


def test_tensors_hold_the_samples(config):
    batches = open_micro_batches(config, vocabulary(config))
    for index in range(20):
        batch, samples = batches[index], batches.samples(index)
        rows = batch.plan.sequence_to_sorted
        offset = torch.where(rows >= batch.plan.padded_text, batches.vocabulary.text_size, 0)
        joined = np.concatenate([s[0] for s in samples])
        assert (batch.input_ids[rows] + offset).tolist() == joined.tolist()


def refused(config, match, **arguments):
    with pytest.raises(ValueError, match=match):
        load(config, **arguments)


def test_wrong_tokenizers(config, tmp_path):
    (tmp_path / "other.model").write_bytes(b"another")
    (tmp_path / "vq").mkdir()
    (tmp_path / "vq" / "config.json").write_text("{}")
    refused(
        with_data(config, text_tokenizer=str(tmp_path / "other.model")),
        "data.text_tokenizer is .*other.model",
    )
    refused(with_data(config, image_tokenizer=str(tmp_path / "vq")), "data.image_tokenizer is .*vq")
    refused(with_data(config, text_tokenizer=str(tmp_path / "none")), "none does not exist")


def test_a_moved_tokenizer_is_still_the_same(config, text_model, tmp_path):
    (tmp_path / "moved.model").write_bytes(text_model.read_bytes())
    read(with_data(config, text_tokenizer=str(tmp_path / "moved.model")), 1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vocabulary": VocabularyConfig(text_size=49, codebook_size=16)}, "vocabulary.text_size is 49"),
        ({"vocabulary": VocabularyConfig(text_size=64, codebook_size=32)}, "vocabulary.codebook_size is 32"),
        (
            {"image": ImageConfig(resolution=16, downsample=4)},
            "image.resolution / image.downsample is 16 / 4",
        ),
        ({"training": TrainingConfig(global_batch_size=3)}, "training.global_batch_size is 3"),
    ],
)
def test_config_of_another_index(config, changes, match):
    refused(replace(config, **changes), match, dp_size=2)


def test_a_sample_longer_than_the_budget(config):
    refused(
        with_data(config, micro_batch_tokens=RESERVED_ROWS + 8),
        "data.micro_batch_tokens is 72; the longest sample",
    )


def test_the_longest_sample_just_fits_or_is_left_out(config):
    small = with_data(config, micro_batch_tokens=RESERVED_ROWS + 8)
    with pytest.raises(ValueError) as error:
        open_micro_batches(small, vocabulary(config))
    needed = int(str(error.value).rsplit(" ", 1)[1])
    fitting = open_micro_batches(with_data(config, micro_batch_tokens=needed), vocabulary(config))
    rows = [len(s[0]) for number in range(400) for s in fitting.samples(number)]
    assert max(rows) == needed - RESERVED_ROWS
    with pytest.raises(ValueError):
        open_micro_batches(with_data(config, micro_batch_tokens=needed - 1), vocabulary(config))
    left_out = with_data(config, micro_batch_tokens=needed - 1, too_long="skip")
    batches = open_micro_batches(left_out, vocabulary(config))
    assert max(len(s[0]) for number in range(400) for s in batches.samples(number)) < needed - RESERVED_ROWS


def test_nothing_fits(config):
    nothing = with_data(config, micro_batch_tokens=RESERVED_ROWS + 1, too_long="skip")
    refused(nothing, "data.micro_batch_tokens is too small for every sample")


@pytest.mark.parametrize(
    ("changes", "arguments", "match"),
    [
        ({"validation_fraction": 0.0}, {"split": "validation"}, "data.validation_fraction is 0.0"),
        ({"validation_fraction": 1.0}, {}, "data.validation_fraction is 1.0"),
        ({"tasks": TaskWeights(0.0, 0.0, sr=1.0)}, {}, "data.tasks is .*serve i2t, t2i, text; give one"),
        ({"micro_batch_tokens": BUDGET + 1}, {"row_multiple": 2}, "data.micro_batch_tokens is 129"),
        ({}, {"row_multiple": 64}, "parallel.tensor is 64"),
        ({"path": "nowhere"}, {}, "nowhere.idx is missing"),
    ],
)
def test_bad_settings(config, changes, arguments, match):
    refused(with_data(config, **changes), match, **arguments)


def test_tasks_share_packs_on_request(config):
    config = with_data(config, tasks=TaskWeights(t2i=0.5, i2t=0.5))
    mixed = open_micro_batches(with_data(config, pack_by_task=False), vocabulary(config)).rounds.round(0)
    apart = open_micro_batches(config, vocabulary(config)).rounds.round(0)
    assert sorted(mixed.samples["document"].tolist()) == sorted(apart.samples["document"].tolist())
    tasks = [set((mixed.pack(number)["task"] & ~np.uint8(DROPPED)).tolist()) for number in range(mixed.num_packs)]
    assert any(len(found) > 1 for found in tasks) and mixed.num_packs <= apart.num_packs
