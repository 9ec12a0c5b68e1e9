"""Handwritten digits: data, recipes and reports of quickstart.sh and stages.sh."""
