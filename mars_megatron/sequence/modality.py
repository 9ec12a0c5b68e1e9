"""The modalities a token can have; every token goes to the expert of its own."""

TEXT = 0
VISUAL = 1
