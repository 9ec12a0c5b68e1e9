"""Embedding and head over two vocabulary-parallel tables: text rows and image rows."""

from __future__ import annotations

import copy

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    vocab_parallel_cross_entropy,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from mars_megatron.model.experts import ByModality, Rows, mark
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary


class JoinedEmbedding(ByModality):
    """Looks up text rows in the text table and visual rows in the image table.

    Args:
        config: megatron-core configuration.
        vocabulary: Table sizes.
        tp_group: Tensor-parallel group; each table is split over it by rows.
    """

    def __init__(
        self, config: TransformerConfig, vocabulary: Vocabulary, tp_group: torch.distributed.ProcessGroup
    ) -> None:
        super().__init__(config)
        self.tp_group = tp_group

        def table(rows: int) -> VocabParallelEmbedding:
            embedding = VocabParallelEmbedding(
                rows,
                config.hidden_size,
                init_method=config.init_method,
                reduce_scatter_embeddings=config.sequence_parallel,
                config=config,
                tp_group=tp_group,
            )
            mark(embedding.weight, "embedding")
            return embedding

        self.text = table(vocabulary.padded_text_size)
        self.visual = table(vocabulary.padded_image_size)

    def forward(self, input_ids: Tensor, num_text: int) -> Tensor:
        """int64 [rows], text ids first, then image-table rows -> [local rows, 1, hidden]."""
        text_ids, visual_ids = input_ids.split((num_text, input_ids.shape[0] - num_text))
        return torch.cat((self._look_up(self.text, text_ids), self._look_up(self.visual, visual_ids)))

    def _look_up(self, table: VocabParallelEmbedding, ids: Tensor) -> Tensor:
        rows = table(ids.unsqueeze(0))
        return rows if self.config.sequence_parallel else rows.transpose(0, 1)


class JoinedHead(ByModality):
    """Logits and losses over the joined vocabulary.

    Rows that only pad a table get the logit -inf: they never take probability, whatever the padding.

    Args:
        config: megatron-core configuration.
        vocabulary: Table sizes.
        tp_group: Tensor-parallel group; each table is split over it by rows.
        loss_vocabulary: Normalise over all rows (`full`) or over those of the target's modality (`modality`).
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: Vocabulary,
        tp_group: torch.distributed.ProcessGroup,
        loss_vocabulary: str,
    ) -> None:
        super().__init__(config)
        self.tp_group = tp_group
        self.vocabulary = vocabulary
        self.loss_vocabulary = loss_vocabulary
        # The caller hands over complete rows, whose gradients it reduces itself, once for both tables.
        whole_rows = copy.copy(config)
        whole_rows.sequence_parallel = False

        def table(rows: int) -> ColumnParallelLinear:
            return ColumnParallelLinear(
                config.hidden_size,
                rows,
                config=whole_rows,
                init_method=config.init_method,
                bias=False,
                gather_output=False,
                disable_grad_reduce=True,
                tp_group=tp_group,
            )

        self.text = table(vocabulary.padded_text_size)
        self.visual = table(vocabulary.padded_image_size)

    def logits(self, hidden: Tensor, only: int | None = None) -> Tensor:
        """Scores of the joined ids.

        Args:
            hidden: [n, 1, hidden], whole on every rank.
            only: Modality whose ids are wanted; None for those of both.

        Returns:
            fp32 [n, text_size + image_size], or the columns of the modality; whole on every rank.
        """
        parts = []
        if only in (None, TEXT):
            parts.append(self._whole(self._text_logits(hidden), self.vocabulary.text_size))
        if only in (None, VISUAL):
            parts.append(self._whole(self._visual_logits(hidden), self.vocabulary.image_size))
        return torch.cat(parts, dim=-1).squeeze(1).float()

    def _whole(self, local: Tensor, size: int) -> Tensor:
        return gather_from_tensor_model_parallel_region(local, group=self.tp_group)[..., :size]

    def losses(self, hidden: Tensor, targets: Tensor, num_text_targets: int) -> Tensor:
        """Cross-entropy of each target.

        Args:
            hidden: [n, 1, hidden], whole on every rank; rows with text targets first.
            targets: int64 [n]: text ids, then image-table rows.
            num_text_targets: How many are text.

        Returns:
            fp32 [n].
        """
        parts = (num_text_targets, targets.shape[0] - num_text_targets)
        text_targets, visual_targets = targets.split(parts)
        if self.loss_vocabulary == "modality":
            text_rows, visual_rows = hidden.split(parts)
            text, visual = self._text_logits(text_rows), self._visual_logits(visual_rows)
            return torch.cat((_cross_entropy(text, text_targets), _cross_entropy(visual, visual_targets)))
        text, visual = self._local_logits(hidden)
        text_width, visual_width = text.shape[-1], visual.shape[-1]
        # Each rank holds [its text rows | its image rows]; number the columns of all ranks in that order.
        joined = torch.cat(
            (
                text_targets // text_width * (text_width + visual_width) + text_targets % text_width,
                visual_targets // visual_width * (text_width + visual_width)
                + text_width
                + visual_targets % visual_width,
            )
        )
        return _cross_entropy(torch.cat((text, visual), dim=-1), joined)

    def _local_logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._text_logits(hidden), self._visual_logits(hidden)

    def _text_logits(self, hidden: Tensor) -> Tensor:
        return self._without_padding(self.text(hidden)[0], self.vocabulary.text_size)

    def _visual_logits(self, hidden: Tensor) -> Tensor:
        return self._without_padding(self.visual(hidden)[0], self.vocabulary.image_size)

    def _without_padding(self, logits: Tensor, size: int) -> Tensor:
        width = logits.shape[-1]
        real = min(max(size - self.tp_group.rank() * width, 0), width)
        if real < width:
            logits[..., real:] = float("-inf")
        return logits


def _cross_entropy(local_logits: Tensor, targets: Tensor) -> Tensor:
    if targets.shape[0] == 0:
        return local_logits.sum() * targets.float()
    return vocab_parallel_cross_entropy(local_logits.float(), targets[:, None]).squeeze(1)


def gather_rows(rows: Rows, tp_group: torch.distributed.ProcessGroup, sequence_parallel: bool) -> Tensor:
    """Complete sorted rows on every rank, with gradients summed over the ranks in the backward.

    Args:
        rows: Local parts (under sequence parallelism), else complete ones.
        tp_group: Tensor-parallel group.
        sequence_parallel: Whether each rank holds its share only.

    Returns:
        [all rows, 1, hidden], text first.
    """
    if not sequence_parallel:
        return copy_to_tensor_model_parallel_region(rows.joined(), group=tp_group)
    return rows.with_parts(
        gather_from_sequence_parallel_region(rows.text, group=tp_group),
        gather_from_sequence_parallel_region(rows.visual, group=tp_group),
    ).joined()
