"""The paper's questions at small scale: the modules of run.sh."""
