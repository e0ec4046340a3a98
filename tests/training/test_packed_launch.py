"""`dev.py train packed` from the command line to the files that nodes load, on a tiny Wan."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from throughline.memory.hierarchy_format import read_packed_file
from throughline.training.packed_training import main

SIZES = ["--size", "32x48", "--fps", "8", "--segment-frames", "9", "--story-segments", "3"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers
def test_a_model_and_videos_become_embedders_and_their_lora(
    comfy: ModuleType,
    tiny_wan_folder: Path,
    tiny_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two levels, windows 1 and 2; killed and called again the same command ends at once."""
    arguments = ["--model", str(tiny_wan_folder), "--videos", str(tiny_videos)]
    arguments += ["--out", str(tmp_path), "--windows", "1,2", "--steps", "2", "--batch", "2"]
    arguments += ["--rank", "2", "--cpu", "--mixed-precision", "no", *SIZES]
    assert main(arguments) == 0
    assert "step 2/2: loss" in capsys.readouterr().out
    stem = tiny_wan_folder.name
    path = tmp_path / "packed_context" / f"{stem}_packed.safetensors"
    lora = tmp_path / "loras" / f"{stem}_packed.safetensors"
    embedder, card = read_packed_file(path)
    assert (card.base, card.head, card.windows, card.lora) == (stem, "pooled", (1, 2), lora.name)
    assert embedder.config.code_channels == (64, 64) and embedder.config.width == 48
    with safe_open(lora, "pt") as file:
        assert file.metadata()["lora_hash"] == card.lora_hash
        names = list(file.keys())  # noqa: SIM118
        assert all(name.startswith("diffusion_model.blocks.") for name in names)
        ups = [file.get_tensor(name) for name in names if ".lora_B." in name]
    assert any(torch.count_nonzero(up) for up in ups)
    assert main(arguments) == 0
    assert "loss" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="was trained with"):
        main([*arguments, "--rank", "4"])
