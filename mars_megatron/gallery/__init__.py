"""Folders of results: prompts, sampled images and documents, manifests, contact sheets."""
