"""Fixtures that these tests share with others."""

from tests.support.exported_run import exported

__all__ = ["exported"]
