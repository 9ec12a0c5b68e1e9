"""Other packages: every name of theirs that is private or replaced, and where their releases differ."""
