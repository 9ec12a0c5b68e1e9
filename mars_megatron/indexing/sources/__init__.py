"""Where raw samples come from."""

from mars_megatron.indexing.sources.folder import CAPTIONS_FILE, folder_images
from mars_megatron.indexing.sources.inputs import InputShard, find_inputs

__all__ = ["CAPTIONS_FILE", "InputShard", "find_inputs", "folder_images"]
