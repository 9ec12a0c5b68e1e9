"""Training of MARS text-to-image models on Megatron-Core. README.md has a map of the packages below."""
