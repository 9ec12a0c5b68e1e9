"""Training a VQ image tokenizer (diffusers VQModel) on images held in memory.

Plain training of a VQ autoencoder collapses to a few codes. Here the autoencoder first learns without
quantisation, k-means of its latents then makes the codebook, and codes that go out of use during the quantised
training are moved to latents that are badly served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from tqdm import tqdm

from mars_megatron.files.writing import staged
from mars_megatron.tokenizers.image import ImageTokenizer, channels_first, load_image_tokenizer, to_float

if TYPE_CHECKING:
    from diffusers import VQModel
REPORT_IMAGES = 4096  # most images that the report looks at


def nearest(rows: torch.Tensor, centres: torch.Tensor, chunk: int = 8192) -> torch.Tensor:
    """Number of the nearest centre of each row: [n, dim], [k, dim] -> int64 [n]."""
    norms = (centres * centres).sum(1)
    return torch.cat([(norms - 2 * part @ centres.T).argmin(1) for part in rows.split(chunk)])


def squared_distance(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row to its nearest centre: [n, dim], [k, dim] -> [n]."""
    return (rows - centres[nearest(rows, centres)]).square().sum(1)


def draw_far(rows: torch.Tensor, distances: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` rows drawn without replacement, with probability in proportion to their distance: [count, dim]."""
    # the little addend keeps rows drawable where fewer than `count` have a distance above zero
    weights = distances.double() / distances.max().clamp(min=1e-12) + 1e-9
    return rows[torch.multinomial(weights.cpu(), count, generator=generator).to(rows.device)]


def kmeans(rows: torch.Tensor, k: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's algorithm from k-means++ centres; a centre that loses all its rows is drawn anew.

    Args:
        rows: float [n, dim], n >= k.
        k: Number of centres.
        iterations: Rounds of Lloyd's algorithm.
        generator: CPU generator of every draw.

    Returns:
        Centres, float [k, dim].
    """
    assert len(rows) >= k, f"{len(rows)} rows do not make {k} centres"
    first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    centres = torch.empty(k, rows.shape[1], dtype=rows.dtype, device=rows.device)
    centres[0] = rows[first[0]]
    distances = (rows - centres[0]).square().sum(1)
    for number in range(1, k):
        centres[number] = draw_far(rows, distances, 1, generator)[0]
        distances = torch.minimum(distances, (rows - centres[number]).square().sum(1))
    for _ in range(iterations):
        members = nearest(rows, centres)
        counts = torch.bincount(members, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, members, rows)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = draw_far(rows, squared_distance(rows, centres), len(empty), generator)
    return centres


@dataclass(frozen=True)
class ImageTrainingConfig:
    """Shape and training of the VQModel.

    Args:
        codebook_size: Number of codes.
        code_dim: Channels of a code.
        widths: Channels at each resolution; each after the first halves the image, so that the pixels per token
            along a side are 2 ** (number of widths - 1).
        layers_per_block: Residual layers at each resolution.
        norm_groups: Groups of the group norms; divides every width.
        attention: Self-attention at the lowest resolution.
        warmup_steps: Steps as a plain autoencoder.
        steps: Steps with quantisation.
        batch_size: Images per step.
        warmup_lr: Peak learning rate of the warm-up.
        lr: Peak learning rate of the quantised training.
        commitment: Weight of the quantisation loss.
        revive_interval: Steps between looks for codes out of use, in the first four fifths of the steps; 0 never.
        kmeans_iterations: Rounds of k-means.
        max_latents: Latents drawn for k-means and for the looks.
        seed: Seed of everything.
        device: Where it runs.
    """

    codebook_size: int = 256
    code_dim: int = 8
    widths: tuple[int, ...] = (16, 32, 32)
    layers_per_block: int = 1
    norm_groups: int = 8
    attention: bool = False
    warmup_steps: int = 250
    steps: int = 350
    batch_size: int = 32
    warmup_lr: float = 4e-3
    lr: float = 2e-3
    commitment: float = 1.0
    revive_interval: int = 50
    kmeans_iterations: int = 15
    max_latents: int = 65536
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in (
            "codebook_size",
            "code_dim",
            "layers_per_block",
            "norm_groups",
            "warmup_steps",
            "steps",
            "batch_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.widths or any(width < 1 or width % self.norm_groups for width in self.widths):
            raise ValueError(f"widths are {self.widths}; each must be a multiple of norm_groups ({self.norm_groups})")

    @property
    def downsample(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class ImageTrainingReport:
    """What came of a training, on at most REPORT_IMAGES of its images.

    Args:
        codes_used: Codes that occur in them.
        codebook_size: Number of codes.
        reconstruction_mse: Mean squared error per channel of the decoded images, of pixels in [0, 1]; the mean over
            the sizes.
        num_revived: Codes moved during training.
    """

    codes_used: int
    codebook_size: int
    reconstruction_mse: float
    num_revived: int


def train_image_tokenizer(
    images: torch.Tensor | Sequence[torch.Tensor],
    output: str | Path,
    config: ImageTrainingConfig,
    *,
    progress: bool = True,
) -> ImageTrainingReport:
    """Train a VQModel and save it as a diffusers folder, which appears under its name only when complete.

    Args:
        images: uint8 [N, 3, H, W] or [N, H, W, 3]; or several of these, of other sizes, which take turns.
        output: The folder; an image tokenizer already there is replaced.
        config: Shape and training.
        progress: Show progress bars.

    Raises:
        ValueError: The image size does not fit the model, there are too few images for the codebook, or the
            output is something else than an image tokenizer.
    """
    output = Path(output)
    sets = [images] if isinstance(images, torch.Tensor) else images
    sets = [channels_first(images).contiguous() for images in sets]
    for images in sets:
        _check(images, output, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initialisation
        trainer = _Trainer(sets, config, progress)
        trainer.warm_up()
        trainer.make_codebook()
        trainer.train()
    tokenizer = _save(trainer.model, output, config.device)
    used, errors = set(), []
    for images in sets:
        images = images[torch.randperm(len(images), generator=trainer.generator)[: REPORT_IMAGES // len(sets)]]
        codes = tokenizer.encode(images)
        decoded = tokenizer.decode(codes, _grid(images, config)).permute(0, 3, 1, 2)
        used.update(codes.unique().tolist())
        errors.append(float(((decoded.float() - images.float()) / 255).square().mean()))
    return ImageTrainingReport(
        codes_used=len(used),
        codebook_size=config.codebook_size,
        reconstruction_mse=sum(errors) / len(errors),
        num_revived=trainer.num_revived,
    )


class _Trainer:
    """The model and the three stages of its training."""

    def __init__(self, sets: Sequence[torch.Tensor], config: ImageTrainingConfig, progress: bool) -> None:
        self.sets = sets
        self.config = config
        self.progress = progress
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = make_model(config).to(config.device)
        self.num_revived = 0

    def warm_up(self) -> None:
        """Train as a plain autoencoder."""

        def loss(images: torch.Tensor) -> torch.Tensor:
            latents = self.model.encode(images).latents
            return F.mse_loss(self.model.decode(latents, force_not_quantize=True).sample, images)

        self._optimise("autoencoder", self.config.warmup_steps, self.config.warmup_lr, loss)

    @torch.no_grad()
    def make_codebook(self) -> None:
        """Set the codebook to the k-means centres of the latents."""
        centres = kmeans(self.latents(), self.config.codebook_size, self.config.kmeans_iterations, self.generator)
        self.model.quantize.embedding.weight.copy_(centres)

    def train(self) -> None:
        """Train with quantisation, reviving dead codes on the way."""

        def loss(images: torch.Tensor) -> torch.Tensor:
            output = self.model(images)
            return F.mse_loss(output.sample, images) + self.config.commitment * output.commit_loss.mean()

        def look(step: int) -> None:
            interval = self.config.revive_interval
            # the last fifth is left alone, for the moved codes to settle
            if interval and step % interval == 0 and step <= 0.8 * self.config.steps:
                self.revive()

        self._optimise("vector quantiser", self.config.steps, self.config.lr, loss, look)

    @torch.no_grad()
    def revive(self) -> None:
        """Move codes that no latent uses to latents far from every code."""
        latents, codebook = self.latents(), self.model.quantize.embedding.weight
        counts = torch.bincount(nearest(latents, codebook), minlength=len(codebook))
        dead = (counts == 0).nonzero()[:, 0]
        if len(dead):
            codebook[dead] = draw_far(latents, squared_distance(latents, codebook), len(dead), self.generator)
            self.num_revived += len(dead)

    @torch.no_grad()
    def latents(self) -> torch.Tensor:
        """Encoder outputs of a random draw of images, as rows [at most about max_latents, code_dim]."""
        found = []
        for images in self.sets:
            per_image = math.prod(_grid(images, self.config)) * len(self.sets)
            count = min(len(images), -(-self.config.max_latents // per_image))
            order = torch.randperm(len(images), generator=self.generator)[:count]
            for part in order.split(256):
                latents = self.model.encode(self._floats(images[part])).latents
                found.append(latents.permute(0, 2, 3, 1).reshape(-1, self.config.code_dim))
        return torch.cat(found)

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        return to_float(images.to(self.config.device))

    def _optimise(
        self,
        name: str,
        steps: int,
        lr: float,
        loss_of: Callable[[torch.Tensor], torch.Tensor],
        after_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        warmup = max(1, steps // 10)

        def factor(step: int) -> float:  # linear up, then linear down to a hundredth
            return (step + 1) / warmup if step < warmup else max(0.01, (steps - step) / max(1, steps - warmup))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        bar = tqdm(range(1, steps + 1), desc=name, disable=not self.progress, mininterval=0.5)
        for step in bar:
            images = self.sets[step % len(self.sets)]
            numbers = torch.randint(len(images), (self.config.batch_size,), generator=self.generator)
            loss = loss_of(self._floats(images[numbers]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            after_step(step)
            if step % 10 == 0 or step == steps:
                bar.set_postfix(loss=f"{loss.item():.4f}")


def _grid(images: torch.Tensor, config: ImageTrainingConfig) -> tuple[int, int]:
    """Rows and columns of the tokens of one of the images."""
    return images.shape[2] // config.downsample, images.shape[3] // config.downsample


def make_model(config: ImageTrainingConfig) -> VQModel:
    """An untrained VQModel of the configured shape."""
    from diffusers import VQModel  # slow to import

    num = len(config.widths)
    return VQModel(
        block_out_channels=config.widths,
        down_block_types=("DownEncoderBlock2D",) * num,
        up_block_types=("UpDecoderBlock2D",) * num,
        layers_per_block=config.layers_per_block,
        latent_channels=config.code_dim,
        vq_embed_dim=config.code_dim,
        num_vq_embeddings=config.codebook_size,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.attention,
    )


def _check(images: torch.Tensor, output: Path, config: ImageTrainingConfig) -> None:
    height, width = images.shape[2:]
    if not len(images) or height % config.downsample or width % config.downsample:
        raise ValueError(
            f"images are {tuple(images.shape)}; widths {config.widths} need multiples of {config.downsample}"
        )
    num_latents = len(images) * (height // config.downsample) * (width // config.downsample)
    if num_latents < config.codebook_size or config.max_latents < config.codebook_size:
        raise ValueError(
            f"codebook_size is {config.codebook_size}, but the {len(images)} images have {num_latents} tokens "
            f"(and max_latents is {config.max_latents}); give more images or a smaller codebook"
        )
    if output.exists() and not (output / "config.json").is_file():
        raise ValueError(f"output {output} exists and is not an image tokenizer; give another path")


def _save(model: VQModel, output: Path, device: str) -> ImageTokenizer:
    with staged(output, replace=True) as folder:
        model.eval().save_pretrained(folder)
    return load_image_tokenizer(output, device)
