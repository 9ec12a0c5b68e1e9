"""T2I-CompBench: prompt files, scorers and the suite."""
