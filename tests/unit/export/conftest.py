"""A run with everything that is exported, and its exported folder."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from mars_megatron.export.folder import write_companions
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.exported import exported_state
from tests.support.exported_run import STEP, Exported
from tests.support.tiny_run import write_run


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("exported")
    run = write_run(root)
    loaded = load_for_inference(run.checkpoint)
    folder = root / "mars"
    folder.mkdir()
    data = run.config.data
    write_companions(
        folder,
        run.config,
        step=STEP,
        dtype="fp32",
        text_tokenizer=data.text_tokenizer,
        image_tokenizer=data.image_tokenizer,
    )
    state = {name: value.contiguous() for name, value in exported_state(loaded.model, run.config).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return Exported(run, loaded, Sampler(loaded), folder)
