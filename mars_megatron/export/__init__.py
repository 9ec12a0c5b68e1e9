"""The code inside an exported Hugging Face folder (*_mars.py), and the code that writes it there."""
