"""Runs on handwritten digits, and scripts. Started from the root of the repository, where its modules are found."""
