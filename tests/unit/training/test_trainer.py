"""A whole run on one rank: what it writes, that it learns, stops, resumes and starts from another."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from mars_megatron.checkpoint import Position, folders, latest, read_config
from mars_megatron.checkpoint.streaming import write_checkpoint
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.parts import as_parameters
from mars_megatron.training import Trainer
from mars_megatron.training.callbacks import Save
from mars_megatron.training.optimizer import apply_settings
from mars_megatron.training.signals import StopRequest
from tests.support.corpus import write_corpus
from tests.support.metrics import configured, lines, losses


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.chunks[0].named_parameters()}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask for a stop behind the step of that number (counted from now), as a signal would."""
    asked = []

    def agreed(self: StopRequest) -> bool:
        asked.append(step)
        if len(asked) == step:
            self._requested = True
        return original(self)

    original = StopRequest.agreed
    monkeypatch.setattr(StopRequest, "agreed", agreed)


def consumed(trainer: Trainer) -> tuple[int, int]:
    """(steps, micro-batches)."""
    return trainer.position.step, trainer.position.micro_batches


def test_what_a_run_writes(base: RunConfig, run_folder: Path) -> None:
    config = configured(
        base,
        checkpoint__dir=run_folder,
        checkpoint__interval=2,
        logging__interval=2,
        training__steps=5,
        training__eval_interval=4,
        training__eval_batches=4,
    )
    trainer = Trainer(config)
    result = trainer.run()
    assert sorted(path.name for path in run_folder.iterdir()) == [
        "data_cache",
        "finished",
        "latest",
        "metrics.jsonl",
        "step_00000004",
        "step_00000005",
    ]
    assert latest(run_folder) == run_folder / "step_00000005"
    assert read_config(run_folder / "step_00000005") == config
    written = lines(run_folder)
    tasks = {"loss_t2i", "loss_i2t", "loss_text"}
    assert all(isinstance(value, (int, float, str)) for line in written for value in line.values())
    assert any(tasks & set(line) for line in written if line["split"] == "train")
    validated = [line for line in written if line["split"] == "validation"]
    assert all(tasks <= set(line) for line in validated), "text is watched"
    assert [(line["step"], line["split"]) for line in written] == [
        *((2, "train"), (4, "train"), (4, "validation"), (5, "train"), (5, "validation"))
    ]
    assert written[3]["loss"] == result.loss and written[3]["grad_norm"] > 0
    assert all(line["seconds_per_step"] > 0 for line in written if line["split"] == "train")
    assert "grad_norm" not in written[2] and "lr" not in written[2]
    assert consumed(trainer) == (5, 10)
    # The schedule ends where it should: cosine decay to min_lr in the last step.
    assert written[3]["lr"] == pytest.approx(config.optimizer.min_lr)
    assert written[0]["lr"] > written[1]["lr"] > written[3]["lr"]


def test_a_finished_run_has_nothing_to_do(base: RunConfig, run_folder: Path) -> None:
    config = configured(base, checkpoint__dir=run_folder, training__steps=2)
    Trainer(config).run()
    before = losses(run_folder)
    assert Trainer(config).run() is None
    assert losses(run_folder) == before and (run_folder / "finished").is_file()
    # With more steps to go it is not finished.
    longer = Trainer(configured(config, training__steps=3))
    assert consumed(longer) == (2, 4)
    Save(longer)
    assert not (run_folder / "finished").exists()


def test_evaluation_is_the_mean_over_the_targets(base: RunConfig) -> None:
    trainer = Trainer(base)
    for _ in range(2):
        trainer._step()
    result = trainer.evaluate()
    assert trainer.evaluate() == result, "the same micro-batches every time"
    model, total, text, num_text, tokens = trainer.chunks[0].eval(), [], [], 0, 0
    with torch.no_grad():
        for batch in islice(trainer.feed.batches("validation"), base.training.eval_batches):
            values = model(batch.to(next(model.parameters()).device))
            total.append(values)
            text.append(values[: batch.num_text_targets])
            num_text += batch.num_text_targets
            tokens += batch.plan.num_tokens
    assert result.loss == pytest.approx(float(torch.cat(total).mean()), rel=1e-6)
    assert result.text_loss == pytest.approx(float(torch.cat(text).mean()), rel=1e-6)
    assert (result.num_targets, result.num_tokens) == (len(torch.cat(total)), tokens)
    assert result.loss * result.num_targets == pytest.approx(
        result.text_loss * num_text + result.visual_loss * (result.num_targets - num_text)
    )
    assert result.grad_norm is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_run_resumes_bitwise(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    base = configured(base, training__precision=precision, training__eval_interval=2)
    straight = Trainer(configured(base, checkpoint__dir=tmp_path / "straight"))
    straight.run()
    folder = tmp_path / "stopped"
    config = configured(base, checkpoint__dir=folder)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        stopped = Trainer(config)
        stopped.run()
    assert consumed(stopped) == (3, 6) and latest(folder) == folders.step_folder(folder, 3)
    assert not (folder / "finished").exists()
    # What a run that was killed after its checkpoint leaves behind.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "train", "loss": 99.0}\n{"step": 5, "sp')
    folders.incomplete(folders.step_folder(folder, 5)).mkdir()
    resumed = Trainer(config)
    assert consumed(resumed) == (3, 6)
    resumed.run()
    assert (folder / "finished").is_file()
    assert losses(folder) == losses(tmp_path / "straight")
    expected = parameters(straight)
    for name, value in parameters(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_a_stop_in_the_last_step_is_a_finished_run(
    base: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(monkeypatch, 2)
    Trainer(configured(base, checkpoint__dir=run_folder, training__steps=2)).run()
    assert (run_folder / "finished").is_file() and "stopped on request" not in capsys.readouterr().out


def test_a_stop_without_a_folder_says_so(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(monkeypatch, 1)
    trainer = Trainer(base)
    trainer.run()
    assert trainer.position.step == 1
    assert "stopped on request after step 1; checkpoint.dir is empty" in capsys.readouterr().out


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_bf16_run_learns(base: RunConfig, recompute: str) -> None:
    config = configured(base, training__precision="bf16", training__steps=30, recompute__granularity=recompute)
    trainer = Trainer(config)
    assert all(parameter.dtype == torch.bfloat16 for parameter in trainer.chunks[0].parameters())
    before = trainer.evaluate()
    for _ in range(30):
        trainer._step()
    after = trainer.evaluate()
    assert after.visual_loss < before.visual_loss - 0.7 and after.text_loss < before.text_loss


def test_bf16_follows_fp32(base: RunConfig) -> None:
    curves = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(configured(base, training__precision=precision))
        curves.append([trainer._step().loss for _ in range(6)])
    assert curves[1] == pytest.approx(curves[0], rel=0.01) and curves[0] != curves[1]


def test_the_weight_of_text(base: RunConfig) -> None:
    """Weight 3 on every target, of text alone, is the same run with three times the gradient."""
    text = configured(base, data__tasks__t2i=0.0, optimizer__clip_grad=0.0)
    results = [Trainer(configured(text, loss__text_weight=weight))._step() for weight in (1.0, 3.0)]
    assert results[0].visual_loss is None and results[0].loss == results[1].loss
    assert results[1].grad_norm == pytest.approx(3 * results[0].grad_norm, rel=1e-5)


def test_start_from_another_run(base: RunConfig, tmp_path: Path) -> None:
    language_model = configured(base, training__steps=2, freeze__text=False, freeze__norms=False)
    source = Trainer(configured(language_model, checkpoint__dir=tmp_path / "source"))
    source.run()
    theirs = parameters(source)
    config = configured(base, checkpoint__dir=tmp_path / "run", checkpoint__init_from=tmp_path / "source")
    trainer = Trainer(config)
    assert consumed(trainer) == (0, 0)
    for name, value in parameters(trainer).items():
        if ".visual." not in name:
            assert torch.equal(value, theirs[name]), name
        elif name.startswith("decoder"):
            assert torch.equal(value, theirs[name.replace(".visual.", ".text.")]), name
            assert not torch.equal(value, theirs[name]), name
    mean = theirs["embedding.text.weight"][: config.vocabulary.text_size].mean(0)
    torch.testing.assert_close(trainer.chunks[0].embedding.visual.weight[5].detach(), mean)
    # The optimiser starts from these values too, not from what was there before.
    first = trainer._step()
    trainer.save()
    resumed = Trainer(config)
    assert resumed.position.step == 1, "a checkpoint of the run itself goes before init_from"
    for name, value in parameters(resumed).items():
        assert torch.equal(value, parameters(trainer)[name]), name
        if ".visual." in name and name.startswith("decoder"):
            assert (value - theirs[name.replace(".visual.", ".text.")]).abs().max() < 3 * trainer.lr(), name
    assert first.grad_norm > 0


@pytest.mark.parametrize("case", [{}, {"training__precision": "bf16"}, {"parallel__distributed_optimizer": False}])
def test_a_kept_optimizer_goes_on(base: RunConfig, tmp_path: Path, case: dict[str, Any]) -> None:
    """Under the schedule, the settings and the data position of the new run."""
    flat = {"optimizer__lr": 0.01, "optimizer__min_lr": 0.01, "optimizer__warmup_ratio": 0.0}
    source = Trainer(configured(base, **case, **flat, training__steps=3, checkpoint__dir=tmp_path / "source"))
    source.run()
    start = {"checkpoint__init_from": tmp_path / "source", "checkpoint__init_visual": "keep"}
    next_stage = configured(base, **case, **start, optimizer__lr=0.02, optimizer__beta1=0.5)
    fresh = Trainer(next_stage)
    kept = Trainer(configured(next_stage, checkpoint__init_optimizer="keep"))
    assert consumed(kept) == (0, 0) and kept.scheduler.num_steps == 0
    for name, value in parameters(source).items():
        assert torch.equal(value, parameters(kept)[name]) and torch.equal(value, parameters(fresh)[name]), name
    # The source goes on with the new run's data and settings.
    going_on = configured(source.config, optimizer__lr=0.02, optimizer__min_lr=1e-5, optimizer__beta1=0.5)
    source.train_batches, source.scheduler = fresh._per_chunk(fresh.feed.batches("train")), fresh.scheduler
    source.scheduler.optimizer = source.optimizer
    apply_settings(source.optimizer, going_on)
    for _ in range(2):
        assert kept._step() == source._step()
    expected = parameters(source)
    for name, value in parameters(kept).items():
        assert torch.equal(value, expected[name]), name
    other = Trainer(next_stage)
    other._step()
    other._step()
    moved = [name for name, value in parameters(other).items() if not torch.equal(value, expected[name])]
    assert set(moved) == {name for name, value in other.chunks[0].named_parameters() if value.requires_grad}


def test_an_optimizer_that_cannot_be_kept(base: RunConfig, tmp_path: Path) -> None:
    source = Trainer(configured(base, training__steps=1, checkpoint__dir=tmp_path / "source"))
    source.run()
    kept = {"checkpoint__init_visual": "keep", "checkpoint__init_optimizer": "keep"}
    start = configured(base, checkpoint__init_from=tmp_path / "source", **kept)
    for setting, value in {
        "freeze__norms": False,
        "training__precision": "bf16",
        "parallel__distributed_optimizer": False,
    }.items():
        name = setting.replace("__", ".")
        with pytest.raises(ValueError, match=rf"is of another kind: {name} is .*, the checkpoint has .*init_optimizer"):
            Trainer(configured(start, **{setting: value}))
    with pytest.raises(ValueError, match="is of another kind: image.next_k is 4, the checkpoint has 1"):
        Trainer(configured(start, image__low_resolution=8, image__next_k=4))
    step = tmp_path / "converted" / "step_00000000"
    config = dataclasses.replace(source.config, checkpoint=dataclasses.replace(base.checkpoint, dir=""))
    parts = as_parameters(open_checkpoint(tmp_path / "source").parts, config)
    write_checkpoint(step.parent, config, 0, parts, progress=False)
    with pytest.raises(ValueError, match="holds parameters alone and no optimiser state"):
        Trainer(configured(start, checkpoint__init_from=step.parent))


def test_shared_experts_start_from_the_language_model_of_semvie(base: RunConfig, tmp_path: Path) -> None:
    source = Trainer(configured(base, freeze__text=False, training__steps=1, checkpoint__dir=tmp_path / "source"))
    source.run()
    shared = configured(base, model__shared_experts=True, freeze__text=False, checkpoint__init_from=tmp_path / "source")
    trainer, theirs = Trainer(shared), parameters(source)
    for name, value in parameters(trainer).items():
        if ".visual." not in name:
            assert torch.equal(value, theirs[name]), name
    semvie = Trainer(configured(shared, model__shared_experts=False))
    assert trainer.evaluate() == semvie.evaluate(), "copies compute the same"
    assert trainer._step().loss == semvie._step().loss
    assert trainer._step().loss != semvie._step().loss
    with pytest.raises(ValueError, match=r"model\.shared_experts is True, the checkpoint has False"):
        Trainer(configured(shared, checkpoint__init_visual="keep"))


def test_settings_are_checked_before_anything_is_trained(base: RunConfig, run_folder: Path) -> None:
    with pytest.raises(ValueError, match="training.global_batch_size"):
        Trainer(dataclasses.replace(base, training=dataclasses.replace(base.training, global_batch_size=0)))
    Trainer(configured(base, checkpoint__dir=run_folder, training__steps=1)).run()
    with pytest.raises(ValueError, match="model.ffn_hidden_size is 48, the checkpoint has 32"):
        Trainer(configured(base, checkpoint__dir=run_folder, model__ffn_hidden_size=48))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        Trainer(configured(base, checkpoint__init_from=run_folder / "not_there"))


@pytest.mark.usefixtures("one_rank")
def test_a_layout_that_does_not_fit_names_the_setting(base: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"parallel\.pipeline is 2.*there are 1"):
        Trainer(configured(base, parallel__pipeline=2))


def test_a_position_in_other_data_is_refused(base: RunConfig, one_rank: None, run_folder: Path, tmp_path: Path) -> None:
    config = configured(base, checkpoint__dir=str(run_folder), training__steps=2)
    Trainer(config).run()
    assert consumed(Trainer(config)) == (2, 4)
    other = write_corpus(tmp_path / "other", num_images=60, num_texts=20, seed=1)
    with pytest.raises(ValueError, match="counts its position in other data"):
        Trainer(configured(config, data__path=other))


def test_a_position_of_an_unknown_order_is_refused(base: RunConfig, one_rank: None) -> None:
    feed = Trainer(base).feed
    order = feed.check_order(Position())
    assert order == feed.check_order(Position(3, 6, order)) != ""
    with pytest.raises(ValueError, match="or in the order of an earlier version"):
        feed.check_order(Position(3, 6))


def test_no_micro_batch_is_validated_twice(base: RunConfig, one_rank: None) -> None:
    few = configured(base, training__eval_interval=1, training__eval_batches=500)
    trainer = Trainer(few)
    available = trainer.feed.num_packs("validation")
    assert trainer.eval_batches == available < 500
    assert configured(base, training__eval_interval=1, training__eval_batches=2).training.eval_batches == 2
    assert trainer.evaluate().num_targets > 0


def test_the_text_loss_of_a_frozen_language_model_stays(base: RunConfig, run_folder: Path) -> None:
    """Over the rows of text alone; over all rows it would tell what the image rows take from them."""
    every = {"training__eval_interval": 1, "training__eval_batches": 4, "training__steps": 3}
    Trainer(configured(base, checkpoint__dir=str(run_folder), loss__vocabulary="modality", **every)).run()
    validated = [line for line in lines(run_folder) if line["split"] == "validation"]
    assert len({line["loss_text"] for line in validated}) == 1 and len({line["loss_t2i"] for line in validated}) == 3
