"""Scores of a trained model: suites, and their runner."""
