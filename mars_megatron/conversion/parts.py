"""Where parts come from: a checkpoint, a language model that becomes a MARS model, an exported folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from mars_megatron.checkpoint.streaming import CheckpointTensors
from mars_megatron.checkpoint.tensors import LazyTensor, TensorInfo, TensorSource
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.mapping import AttentionShape, Parameter, join, parameters, split
from mars_megatron.files.weights import are_numbers
from mars_megatron.model.initialization import draw
from mars_megatron.sequence.vocabulary import Vocabulary

# Types of whole models, as the command line names them.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Elements of a table that are added at once. Fewer than 2^15 torch adds in one thread, in the cache; spread over
# threads that other programs keep waiting, it took twenty times as long.
_AT_ONCE = 2**15 - 1


def name_of(dtype: torch.dtype) -> str:
    """The name of one of `DTYPES`."""
    return next(name for name, other in DTYPES.items() if other is dtype)


class CheckpointParts:
    """The parts of a checkpoint of this project.

    Args:
        folder: One checkpoint.
        config: Its configuration.

    Raises:
        ValueError: A tensor is missing or has another shape than the configuration says.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self._stored, self._heads = CheckpointTensors(folder), AttentionShape.of(config)
        self._of: dict[str, Parameter] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for parameter in parameters(config):
            found = self._stored.tensors.get(parameter.key)
            if found is None:
                raise ValueError(f"{folder} lacks {parameter.key}, which its config.yaml asks for")
            if found.shape != parameter.key_shape:
                raise ValueError(
                    f"{folder}: {parameter.key} has the shape {list(found.shape)}; config.yaml asks for "
                    f"{list(parameter.key_shape)}"
                )
            for part, shape in parameter.parts.items():
                self._of[part], self.tensors[part] = parameter, TensorInfo(shape, found.dtype)
        unknown = self._stored.tensors.keys() - {parameter.key for parameter in self._of.values()}
        if unknown:
            raise ValueError(f"{folder} has {min(unknown)} (and {len(unknown) - 1} more), unknown to its config.yaml")
        # The parts of a parameter are asked for one after the other.
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def read(self, name: str) -> Tensor:
        """A part; see `TensorSource`."""
        parameter = self._of[name]
        if len(parameter.parts) == 1:
            return split(parameter, self._stored.read(parameter.key), self._heads)[0]
        key, parts = self._last
        if key != parameter.key:
            values = split(parameter, self._stored.read(parameter.key), self._heads)
            parts = dict(zip(parameter.parts, values, strict=True))
            self._last = (parameter.key, parts)
        return parts[name]


class StartParts:
    """A MARS whose visual side begins as its language model: the parts of `start_from_language_model`.

    Args:
        text: Parts of the text expert and the shared norms.
        config: The MARS; it may have several visual experts, each a copy of the one text expert.
    """

    def __init__(self, text: TensorSource, config: RunConfig) -> None:
        self._text, self._config = text, config
        self._parameter_of = {part: parameter for parameter in parameters(config) for part in parameter.parts}
        self._twins = {
            part: twin
            for parameter in self._parameter_of.values()
            for part, twin in zip(parameter.parts, parameter.text_parts, strict=True)
        }
        dtype = next(iter(text.tensors.values())).dtype
        self.tensors: dict[str, TensorInfo] = {}
        for part, parameter in self._parameter_of.items():
            source = text.tensors.get(part) or text.tensors.get(self._twins[part])
            self.tensors[part] = TensorInfo(parameter.parts[part], source.dtype if source else dtype)

    @cached_property
    def _num_text(self) -> int:
        return Vocabulary.from_config(self._config).text_size

    def read(self, name: str) -> Tensor:
        """A part; see `TensorSource`."""
        parameter, info = self._parameter_of[name], self.tensors[name]
        if parameter.expert != "visual":
            return self._text.read(name)
        if parameter.row.shape[0] == "vocabulary":
            return self._mean_row(self._twins[name]).to(info.dtype).expand(info.shape)
        if parameter.row.when == "conditioned":
            return torch.zeros(info.shape, dtype=info.dtype)
        if parameter.row.shape[0] == "experts":
            return draw(parameter.key, info.shape, self._config, "router").to(info.dtype)
        return self._text.read(self._twins[name])

    def _mean_row(self, name: str) -> Tensor:
        table = self._text.read(name)
        total = torch.zeros(table.shape[1], dtype=torch.float64)
        for rows in table.split(max(1, _AT_ONCE // table.shape[1])):
            total += rows.double().sum(0)
        return total / self._num_text


class ConvertedParts:
    """The same parts in another type.

    Args:
        source: The parts.
        dtype: The type of all of them.
    """

    def __init__(self, source: TensorSource, dtype: torch.dtype) -> None:
        self._source, self._dtype = source, dtype
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(info.shape, dtype) for name, info in source.tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """A part; see `TensorSource`.

        Raises:
            ValueError: A value is too large for the type.
        """
        source = self._source.read(name)
        converted = source.to(self._dtype)  # what was read is checked: what is no number now was too large
        if torch.finfo(self._dtype).max < torch.finfo(source.dtype).max:
            if not are_numbers(converted):
                largest = max(abs(float(value)) for value in torch.aminmax(source))
                wider = "bf16 or fp32" if self._dtype is torch.float16 else "fp32"
                raise ValueError(
                    f"{name} has values up to {largest:.6g}, too large for {name_of(self._dtype)} (at most "
                    f"{torch.finfo(self._dtype).max:.6g}); take {wider}"
                )
        return converted


class JoinedParts:
    """Parts of several sources that have none in common, such as a base model and trained tensors."""

    def __init__(self, sources: Iterable[TensorSource]) -> None:
        self._source_of = {name: source for source in sources for name in source.tensors}
        self.tensors = {name: source.tensors[name] for name, source in self._source_of.items()}

    def read(self, name: str) -> Tensor:
        """A part; see `TensorSource`."""
        return self._source_of[name].read(name)


def as_parts(source: TensorSource) -> dict[str, LazyTensor]:
    """What is written to an exported folder."""
    return {name: LazyTensor(info, partial(source.read, name)) for name, info in source.tensors.items()}


def as_parameters(source: TensorSource, config: RunConfig) -> dict[str, LazyTensor]:
    """What is written to a checkpoint.

    Raises:
        ValueError: Parts of one parameter are of several types.
    """
    heads = AttentionShape.of(config)

    def load(parameter: Parameter) -> Tensor:
        return join(parameter, [source.read(part) for part in parameter.parts], heads)

    lazy = {}
    for parameter in parameters(config):
        first, *others = parameter.parts
        dtype = source.tensors[first].dtype
        for part in others:
            if source.tensors[part].dtype != dtype:
                raise ValueError(
                    f"{first} is of type {dtype} and {part} of {source.tensors[part].dtype}; accepted: one type, they "
                    "become one tensor"
                )
        lazy[parameter.key] = LazyTensor(TensorInfo(parameter.key_shape, dtype), partial(load, parameter))
    return lazy
