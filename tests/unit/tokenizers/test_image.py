import json
from dataclasses import replace

import pytest
import torch
from diffusers import VQModel

from mars_megatron.tokenizers import load_image_tokenizer
from mars_megatron.tokenizers.image import to_float, to_uint8
from mars_megatron.tokenizers.train_image import (
    ImageTrainingConfig,
    _Trainer,
    draw_far,
    kmeans,
    make_model,
    nearest,
    train_image_tokenizer,
)

TINY = ImageTrainingConfig(
    codebook_size=16,
    code_dim=4,
    widths=(8, 8),
    norm_groups=4,
    warmup_steps=100,
    steps=60,
    batch_size=16,
    warmup_lr=1e-2,
    lr=4e-3,
    revive_interval=10,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images():
    """uint8 [128, 3, 8, 8]: each quarter of a picture has one of a few colours."""
    generator = torch.Generator().manual_seed(0)
    palette = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 200, 0]])
    quarters = palette[torch.randint(6, (128, 2, 2), generator=generator)]  # [N, 2, 2, 3]
    return quarters.permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq") / "new" / "model"
    return folder, train_image_tokenizer(images, folder, TINY, progress=False)


def test_pixels_survive_the_float_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(pixels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_training_uses_the_codebook_and_reconstructs(trained, images):
    folder, report = trained
    assert report.codebook_size == 16 and report.codes_used >= 12
    variance = float((images.float() / 255).var(dim=0).mean())  # what the mean image would leave
    assert report.reconstruction_mse < 0.2 * variance
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_report_agrees_with_the_saved_model(trained, images):
    folder, report = trained
    tokenizer = load_image_tokenizer(folder)
    codes = tokenizer.encode(images)
    assert len(codes.unique()) == report.codes_used
    decoded = tokenizer.decode(codes, (4, 4)).permute(0, 3, 1, 2)
    mse = float(((decoded.float() - images.float()) / 255).square().mean())
    assert mse == pytest.approx(report.reconstruction_mse, rel=1e-4)


def test_codes_are_those_of_diffusers_own_forward(trained, images):
    folder, _ = trained
    tokenizer, model = load_image_tokenizer(folder), VQModel.from_pretrained(folder).eval()
    codes = tokenizer.encode(images, batch_size=50)
    assert codes.shape == (128, 16) and codes.dtype == torch.int64
    with torch.no_grad():
        expected = to_uint8(model(to_float(images)).sample).permute(0, 2, 3, 1)
    decoded = tokenizer.decode(codes, (4, 4), batch_size=50)
    assert decoded.dtype == torch.uint8 and decoded.shape == (128, 8, 8, 3)
    assert (decoded.int() - expected.int()).abs().max() <= 1  # straight-through adds and subtracts the latent


def test_channels_last_and_batch_size_make_no_difference(trained, images):
    tokenizer = load_image_tokenizer(trained[0])
    codes = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images.permute(0, 2, 3, 1)), codes)
    assert torch.equal(tokenizer.encode(images, batch_size=1), codes)


def test_images_need_not_be_square(trained, images):
    tokenizer, model = load_image_tokenizer(trained[0]), VQModel.from_pretrained(trained[0]).eval()
    wide = torch.cat([images[:64], images[64:]], dim=3)  # [64, 3, 8, 16]
    decoded = tokenizer.decode(tokenizer.encode(wide), (4, 8))
    with torch.no_grad():
        expected = to_uint8(model(to_float(wide)).sample).permute(0, 2, 3, 1)
    assert (decoded.int() - expected.int()).abs().max() <= 1


def test_training_is_deterministic_and_leaves_the_global_generator_alone(images, tmp_path):
    short = replace(TINY, warmup_steps=3, steps=4, revive_interval=2)
    before = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_image_tokenizer(images, tmp_path / name, replace(short, seed=seed), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    fingerprints = [load_image_tokenizer(tmp_path / name).fingerprint for name in "abc"]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_dead_codes_are_revived(images):
    trainer = _Trainer([images], replace(TINY, warmup_steps=10), progress=False)
    trainer.warm_up()
    trainer.make_codebook()
    weight = trainer.model.quantize.embedding.weight
    with torch.no_grad():
        weight[4:] = 1000.0  # twelve codes that no latent uses
        used = len(nearest(trainer.latents(), weight).unique())
        trainer.revive()
        assert trainer.num_revived >= 12
        assert len(nearest(trainer.latents(), weight).unique()) > max(used, 10)
    assert weight.max() < 1000.0


def test_images_of_several_sizes_take_turns(images, tmp_path):
    small = images[:, :, ::2, ::2]
    short = replace(TINY, warmup_steps=2, steps=2)
    trainer, seen = _Trainer([images, small], short, progress=False), []
    per_image = 2 * images.shape[2] * images.shape[3] // short.downsample**2
    trainer._optimise("both", 4, 1e-3, lambda part: seen.append(part.shape[-1]) or trainer.model(part).sample.mean())
    assert seen == [small.shape[-1], images.shape[-1]] * 2
    trainer.config = replace(short, max_latents=per_image)  # half of each size
    assert len(trainer.latents()) == per_image // 2 + per_image // 2
    report = train_image_tokenizer([images, small], tmp_path / "both", short, progress=False)
    assert report.codes_used > 1 and 0 < report.reconstruction_mse < 1


@pytest.mark.parametrize("interval", [0, 5])
def test_training_revives_at_its_interval(images, interval):
    trainer = _Trainer([images], replace(TINY, warmup_steps=5, steps=10, revive_interval=interval), progress=False)
    trainer.make_codebook()
    with torch.no_grad():
        trainer.model.quantize.embedding.weight[8:] = 1000.0
    trainer.train()
    assert trainer.num_revived >= 8 if interval else trainer.num_revived == 0
    assert (trainer.model.quantize.embedding.weight.max() > 900) == (interval == 0)


def test_training_replaces_a_model_but_nothing_else(images, tmp_path):
    short = replace(TINY, warmup_steps=1, steps=1)
    train_image_tokenizer(images, tmp_path / "vq", short, progress=False)
    train_image_tokenizer(images, tmp_path / "vq", replace(short, seed=1), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["vq"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").touch()
    with pytest.raises(ValueError, match="notes exists and is not an image tokenizer"):
        train_image_tokenizer(images, tmp_path / "notes", short, progress=False)
    assert (tmp_path / "notes" / "important.txt").exists()


def test_settings_that_do_not_fit(images, tmp_path):
    with pytest.raises(ValueError, match="codebook_size is 4096"):
        train_image_tokenizer(images, tmp_path / "vq", replace(TINY, codebook_size=4096), progress=False)
    with pytest.raises(ValueError, match="need multiples of 2"):
        train_image_tokenizer(images[:, :, :7, :7], tmp_path / "vq", TINY, progress=False)
    with pytest.raises(ValueError, match="images are torch.float32"):
        train_image_tokenizer(images.float(), tmp_path / "vq", TINY, progress=False)
    with pytest.raises(ValueError, match="steps is 0"):
        replace(TINY, steps=0)
    with pytest.raises(ValueError, match="widths are"):
        replace(TINY, widths=(8, 6))
    assert not (tmp_path / "vq").exists()


def test_encode_and_decode_refuse_what_does_not_fit(trained, images):
    tokenizer = load_image_tokenizer(trained[0])
    assert (tokenizer.codebook_size, tokenizer.downsample, tokenizer.grid(16)) == (16, 2, (8, 8))
    with pytest.raises(ValueError, match="resolution is 7"):
        tokenizer.encode(images[:, :, :7, :7])
    with pytest.raises(ValueError, match=r"a grid of 2 x 3 needs \[N, 6\]"):
        tokenizer.decode(torch.zeros(1, 4, dtype=torch.int64), (2, 3))
    with pytest.raises(ValueError, match="codes lie in 0..16"):
        tokenizer.decode(torch.tensor([[0, 1, 2, 16]]), (2, 2))


def test_what_is_no_image_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a diffusers VQModel folder"):
        load_image_tokenizer(tmp_path / "none")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(ValueError, match=r"holds no weights: none of diffusion_pytorch_model\.safetensors"):
        load_image_tokenizer(tmp_path)
    grey = VQModel(in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4)
    grey.save_pretrained(tmp_path / "grey")
    with pytest.raises(ValueError, match="1 input channels; it must have 3"):
        load_image_tokenizer(tmp_path / "grey")


def test_kmeans_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [50.0, 50.0]])
    rows = truth.repeat_interleave(30, 0) + 0.1 * torch.randn(150, 2, generator=generator)
    centres = kmeans(rows, 5, 10, generator)
    assert torch.cdist(truth, centres).min(1).values.max() < 0.2
    assert len(nearest(rows, centres).unique()) == 5


def test_kmeans_of_few_different_rows_still_gives_k_centres():
    rows = torch.tensor([[0.0], [1.0]]).repeat(10, 1)
    centres = kmeans(rows, 4, 3, torch.Generator().manual_seed(0))
    assert centres.shape == (4, 1) and centres.isfinite().all()
    assert set(centres.flatten().tolist()) == {0.0, 1.0}


def test_draw_far_prefers_distance():
    rows = torch.arange(100.0)[:, None]
    distances = torch.zeros(100)
    distances[90:] = 5.0
    drawn = draw_far(rows, distances, 10, torch.Generator().manual_seed(0))
    assert sorted(drawn[:, 0].tolist()) == list(range(90, 100))


def test_model_of_the_paper_has_its_geometry():
    config = ImageTrainingConfig(codebook_size=8192, code_dim=64, widths=(32,) * 5, norm_groups=32)
    assert config.downsample == 16
    model = make_model(config)
    assert model.quantize.embedding.weight.shape == (8192, 64)
