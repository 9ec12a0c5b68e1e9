"""Contests of the project's dispatch and training step against the usual ways of doing the same."""
