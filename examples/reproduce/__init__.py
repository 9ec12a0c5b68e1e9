"""The paper's questions at small scale: what run.sh runs."""
