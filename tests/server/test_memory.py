"""Memory does not grow with the film: 48 segments beside 12, each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
root, comfyui, segments, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "development", root + "/development/__init__.py",
    submodule_search_locations=[root + "/development"])
sys.modules["development"] = importlib.util.module_from_spec(spec)
from types import SimpleNamespace
from development.benching import enter_host
enter_host(SimpleNamespace(comfyui=Path(comfyui)), threads=1)
import folder_paths, torch
from development.tiny_models import FAMILIES, tiny_wan_vae
from throughline.nodes.film import film_request, plan_film
from throughline.nodes.rendering import render_film

def status(name):
    text = Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) * 1024 / 1e6

tiny = FAMILIES["wan22_i2v"]
inputs = dict(
    model=tiny.model(), vae=tiny_wan_vae(), positive=tiny.conditioning(1),
    negative=tiny.conditioning(2), negative_prompt="", width=256, height=256,
    seconds_per_shot=3.0, fps=8.0, unmarked_shots="continue", segment_frames=29,
    tail_latent_frames=1, seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="simple",
    switch_sigma=0.9, retakes="")
folder_paths.set_output_directory(folder)

def film(count, name):
    script = "\\n".join(f"shot {i}" for i in range(count))
    with torch.inference_mode():
        planned = plan_film(film_request({**inputs, "script": script, "run_name": name}))
        assert len(planned.segments) == count
        return render_film(planned, "1").last_latent.numel() * 4 / 1e6

film(2, "warm_up")  # the model is loaded, the blank clips are encoded
Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
loaded = status("VmRSS")
latent = film(int(segments), "film")
print(json.dumps({"loaded": loaded, "peak": status("VmHWM"), "latent": latent}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc/self/status")
def test_peak_memory_of_48_segments(comfy: object, tmp_path: Path) -> None:
    import folder_paths

    figures = {}
    for count in (12, 48):
        folder = tmp_path / str(count)
        folder.mkdir()
        arguments = [str(ROOT), folder_paths.base_path, str(count), str(folder)]
        made = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        figures[count] = json.loads(made.stdout.splitlines()[-1])
    short, long = figures[12], figures[48]
    assert long["peak"] <= 1.1 * short["peak"], figures
    # sharper: what the film takes beyond the loaded model grows by less than half of the latents
    # that the longer film has more
    more = (long["peak"] - long["loaded"]) - (short["peak"] - short["loaded"])
    assert more <= 0.5 * 36 * long["latent"], figures
