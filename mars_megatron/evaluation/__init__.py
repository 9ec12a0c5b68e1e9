"""Scores of a trained model."""

from mars_megatron.evaluation.evaluate import evaluate
from mars_megatron.evaluation.request import EvaluationRequest

__all__ = ["EvaluationRequest", "evaluate"]
