"""The exported model: files that a Hugging Face folder carries (*_mars.py), and what writes them there."""
