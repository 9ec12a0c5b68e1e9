"""The suites that judge the model with what this package brings; see `mars_megatron.evaluation.registry`."""
