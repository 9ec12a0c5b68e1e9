"""Where raw samples come from."""

from mars_megatron.indexing.sources.folder import FolderSource, Record, SkippedLine

__all__ = ["FolderSource", "Record", "SkippedLine"]
