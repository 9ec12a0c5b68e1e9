"""The measured process of `benchmarks.data_loading`: starts to read, and prints what that took as JSON."""

from __future__ import annotations

import json
import sys
import time
import warnings


def main() -> None:
    """Arguments: prefix of an index that fits stage I of 7B, cache folder or an empty string."""
    began = time.perf_counter()
    warnings.simplefilter("ignore")  # of GPU libraries that are not there
    from dataclasses import replace

    from benchmarks.convert_once import peak_memory
    from mars_megatron.data.loader import flat_batches
    from mars_megatron.data.micro_batches import open_micro_batches
    from mars_megatron.recipes.mars_7b import mars_7b_stage1
    from mars_megatron.sequence.vocabulary import Vocabulary

    imported = time.perf_counter()
    resident_of_imports = peak_memory()
    prefix, cache_dir = sys.argv[1:]
    config = mars_7b_stage1()
    config = replace(config, data=replace(config.data, path=prefix, cache_dir=cache_dir, num_workers=0))
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    next(flat_batches(batches, config))
    found = {
        "seconds": time.perf_counter() - imported,
        "import_seconds": imported - began,
        "resident": peak_memory(),
        "resident_of_imports": resident_of_imports,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
