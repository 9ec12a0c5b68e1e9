"""The command that builds the compositional benchmark."""

from examples.compositional.build import BuildSettings, main, parse_arguments
from mars_megatron.evaluation.dataclass_options import build, values_of


def test_the_command_writes_a_benchmark(tmp_path, capsys):
    options = ["--canvases", "5", "--held-out", "3", "--documents", "2", "--prompts", "1", "--unseen-pairs", "4"]
    assert main(["--output", str(tmp_path), *options]) == 0
    assert "pairs never seen: 4" in capsys.readouterr().out
    assert len((tmp_path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()) == 6


def test_bad_settings_are_one_line(tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--caption-forms", "9"]) == 2
    assert capsys.readouterr().err == "error: benchmark: caption_forms is 9; accepted: 1 to 4\n"


def test_every_setting_is_an_option_with_its_default():
    options = parse_arguments(["--output", "folder"])
    assert build(BuildSettings, values_of(BuildSettings, options), "test") == BuildSettings()
    options = parse_arguments(["--output", "folder", "--unseen-share", "0.5", "--held-out", "7"])
    settings = build(BuildSettings, values_of(BuildSettings, options), "test")
    assert settings == BuildSettings(unseen_share=0.5, held_out=7)
