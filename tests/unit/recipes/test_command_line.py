"""The command line: precedence, help, print-config, errors, and that it stays light."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mars_megatron.config import RunConfig, from_yaml, parser
from mars_megatron.config.problems import leaves
from mars_megatron.config.schema import RopeScalingConfig
from mars_megatron.recipes import command_line, get_recipe
from mars_megatron.recipes.command_line import parse

DATA = ["--data.path", "corpus"]


@pytest.fixture
def partial(tmp_path):
    path = tmp_path / "partial.yaml"
    path.write_text("optimizer: {lr: 0.002, beta2: 0.9}\n")
    return str(path)


def refused(arguments, capsys):
    """The message with which parse ends the process."""
    with pytest.raises(SystemExit) as stop:
        parse(arguments, prog="train")
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_default_is_the_tiny_recipe():
    config = parse(DATA)
    assert config.model == get_recipe("tiny").model and config.data.path == "corpus"


@pytest.mark.parametrize("override_first", [False, True])
def test_recipe_then_file_then_overrides(partial, monkeypatch, override_first):
    monkeypatch.setenv("WORLD_SIZE", "4")
    override = ["--optimizer.lr", "0.003"]
    chosen = ["--recipe", "mars_7b_stage2", "--init-from", "runs/stage1", "--config", partial]
    config = parse(DATA + (override + chosen if override_first else chosen + override))
    recipe = get_recipe("mars_7b_stage2")
    assert config.optimizer.lr == 0.003  # recipe 1e-4, file 0.002
    assert config.optimizer.beta2 == 0.9  # recipe 0.95
    assert config.optimizer.min_lr == recipe.optimizer.min_lr  # schema's default is another
    assert config.model == recipe.model != RunConfig().model


@pytest.mark.parametrize("option", [["--init-from", "runs/one"], ["--init-from=runs/one"]])
def test_the_short_form_of_the_start(option, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("checkpoint: {init_from: runs/other, init_visual: keep}\n")
    config = parse([*DATA, "--config", str(file), *option])
    assert config == parse([*DATA, "--config", str(file), "--checkpoint.init_from", "runs/one"])
    assert (config.checkpoint.init_from, config.checkpoint.init_visual) == ("runs/one", "keep")


def test_overrides_of_every_kind():
    config = parse(
        [
            *DATA,
            "--model.num_layers=8",
            "--freeze.norms",
            "false",
            "--logging.sample_prompts",
            '["a digit, three", "手写数字三"]',
            "--loss.vocabulary",
            "modality",
            "--model.rope_scaling.type=llama3",
            "--model.rope_scaling.factor",
            "8",
            "--model.qk_norm=true",
            "--data.tasks.t2i",
            "0.7",
            "--data.text_tokenizer",
            "007",
        ]
    )
    assert config.model.num_layers == 8 and config.freeze.norms is False
    assert config.logging.sample_prompts == ("a digit, three", "手写数字三")
    assert config.model.rope_scaling == RopeScalingConfig(type="llama3", factor=8.0) and config.model.qk_norm is True
    assert config.loss.vocabulary == "modality" and config.data.tasks.t2i == 0.7
    assert config.data.text_tokenizer == "007"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.num_layer", "3"], "unrecognized arguments: --model.num_layer 3"),  # no abbreviations
        (["--parallel.tensors=3"], "unrecognized arguments: --parallel.tensors=3"),
        (["--model.num_layers", "many"], "model.num_layers"),
        (["--init-from", "a", "--checkpoint.init_from=b"], "--init-from is 'a'; accepted: nothing, because"),
        (["--recipe", "huge"], "--recipe is 'huge'; accepted: tiny, "),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--parallel.tensor", "3"], "accepted: a multiple of parallel.tensor, which is 3"),
        (["--parallel.tensor", "2"], "one model takes 2 ranks, but there are 1"),
        (["--data.tasks.sr", "1"], "image.low_resolution is 0; accepted: above 0 and below image.resolution"),
        (["--data.blend", '[{"path": "a"}]'], "data.path is 'corpus'; accepted: empty, because data.blend"),
        (["--data.blend", '[{"path": "a", "weigth": 2}]'], "weigth"),
        (["--data.path", ""], "data.path is ''; accepted: the prefix"),
    ],
)
def test_a_wrong_command_line_ends_with_a_named_setting(arguments, message, capsys):
    assert message in refused(DATA + arguments, capsys)


def test_the_number_of_ranks_comes_from_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parse([*DATA, "--parallel.tensor", "2"]).parallel.tensor == 2
    assert "there are 2" in refused([*DATA, "--parallel.pipeline", "4"], capsys)
    monkeypatch.setenv("RANK", "1")
    assert refused([*DATA, "--parallel.pipeline", "4"], capsys) == ""  # rank 0 says it


def test_print_config_resolves_and_needs_no_data(partial, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--recipe", "mars_7b_stage1", "--config", partial, "--parallel.pipeline", "2", "--print-config"])
    assert not stop.value.code
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    config = from_yaml(printed)
    assert (config.optimizer.lr, config.parallel.pipeline, config.model.num_layers) == (0.002, 2, 32)
    with pytest.raises(SystemExit):
        parse(["--config", str(printed), "--print-config"])
    assert capsys.readouterr().out == printed.read_text()


def test_print_config_shows_what_it_refuses(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--recipe", "mars_7b_stage3", "--image.low_resolution", "0", "--print-config"])
    streams = capsys.readouterr()
    assert stop.value.code == 2 and "resolution: 1024" in streams.out and "image.low_resolution" in streams.err


def test_a_blend_is_written_and_read_back(tmp_path, capsys):
    blend = '[{"path": "a", "weight": 0.7}, {"path": "b", "tasks": {"text": 1, "t2i": 0, "i2t": 0}}]'
    with pytest.raises(SystemExit):
        parse(["--data.blend", blend, "--print-config"])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    corpora = from_yaml(printed).data.blend
    assert [corpus.path for corpus in corpora] == ["a", "b"] and corpora[0].weight == 0.7
    assert corpora[0].tasks is None and corpora[1].tasks.text == 1.0
    assert parse(["--config", str(printed)]).data.blend == corpora


def test_help_documents_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    for setting, _, _ in leaves(RunConfig()):
        described = re.search(rf"^  --{re.escape(setting)} [^\n]*?\n?\s+(\S.*)\(type:", text, re.MULTILINE | re.DOTALL)
        assert described, setting
    for setting in ("--recipe", "--config", "--print-config"):
        assert f"  {setting}" in text
    assert "Largest number of rows of a micro-batch" in text


def test_a_start_parses_its_settings_once(partial, monkeypatch):
    """The parser takes a tenth of a second to build, in every rank."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    built = []

    def counted(**options):
        built.append(options)
        return build_parser(**options)

    build_parser = parser.build_parser
    for module in (parser, command_line):
        monkeypatch.setattr(module, "build_parser", counted)
    parse(
        [*DATA, "--recipe", "mars_7b_stage2", "--init-from", "runs/stage1", "--config", partial, "--model.norm_eps=1"]
    )
    assert len(built) == 1
    parser._settings_parser.cache_clear()
    for steps in (3, 4):
        config = parser.override(from_yaml(partial), [f"--training.steps={steps}"])
        assert (config.training.steps, config.optimizer.lr) == (steps, 0.002)
    assert len(built) == 2, "saved settings share one"


def test_the_command_line_does_not_import_torch():
    code = (
        "import sys\nfrom mars_megatron.recipes.command_line import parse\nparse(['--data.path', 'x'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ).returncode == 0
