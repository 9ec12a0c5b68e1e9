"""Scores of a trained model: suites, and what runs them."""
