"""T2I-CompBench: prompt files, scorers and the suite."""

from mars_megatron.evaluation.t2i_compbench.suite import T2ICompBench

__all__ = ["T2ICompBench"]
