"""Files, whatever is in them: texts and weights that users give, and folders that are something else."""
