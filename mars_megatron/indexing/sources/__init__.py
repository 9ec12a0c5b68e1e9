"""The inputs of an index: folders, JSONL, tar, parquet and text files."""

from mars_megatron.indexing.sources.inputs import InputShard, find_inputs
from mars_megatron.indexing.sources.listing import CAPTIONS_FILE
from mars_megatron.indexing.sources.metadata import folder_images

__all__ = ["CAPTIONS_FILE", "InputShard", "find_inputs", "folder_images"]
