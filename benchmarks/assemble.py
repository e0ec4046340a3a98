"""Assembling a film: ours, streamed, beside core's VAEDecode, CreateVideo and SaveVideo.

Both get the same latents, the same VAE (core's Wan 2.1 class, narrow, random weights) and the same
h264 settings, each in a process of its own, so that the peak of its memory is its own.
`peak_ram_mb` is the largest resident memory of the process and `ram_before_mb` that before the film
(10**6 bytes); `seconds` is the time the film takes and `cpu_seconds` the processor's, on one
thread. The rows `throughline` and `core` are a film of 48 segments, the others one of 12.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEGMENTS = {"": 48, ", 12 segments": 12}
LATENT_FRAMES, HANDED = 5, 1
SIDE = 24
"""Latent cells per side: 192 pixels. As one IMAGE the long film is 340 MB."""

VAE_WIDTH = 4

FPS, CRF = 8.0, 23

BOOT = """
import importlib, importlib.util, sys
from pathlib import Path
from types import SimpleNamespace
root, comfyui, method, seed, segments, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "development", root + "/development/__init__.py",
    submodule_search_locations=[root + "/development"])
sys.modules["development"] = importlib.util.module_from_spec(spec)
from development.benching import enter_host
from development.package import enter_package
enter_host(SimpleNamespace(comfyui=Path(comfyui)), threads=1)
enter_package("benchmarks", Path(root) / "benchmarks", execute=False)
from benchmarks.assemble import measure_side
measure_side(method, int(seed), int(segments), Path(folder))
"""


def run(seeds: range) -> list[dict[str, Any]]:
    """Four rows: each side with the long and with the short film."""
    import folder_paths

    rows = []
    for label, segments in SEGMENTS.items():
        for method in ("throughline", "core"):
            print(f"{method}, {segments} segments", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                values = [method, str(seeds.start), str(segments), folder]
                command = [sys.executable, "-c", BOOT, str(ROOT), folder_paths.base_path, *values]
                subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
                figures = json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))
            rows.append({"method": method + label, "segments": segments, **figures})
    return rows


def measure_side(method: str, seed: int, segments: int, folder: Path) -> None:
    """Make one film in this process and write figures.json into `folder`."""
    import folder_paths
    import torch

    from development.tiny_models import tiny_wan_vae

    folder_paths.set_output_directory(str(folder))
    vae = tiny_wan_vae(VAE_WIDTH)
    side = {"throughline": _throughline, "core": _core}[method]
    film = side(vae, segments, seed, folder)
    with torch.inference_mode():
        figures = _measured(film)
    (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


def _throughline(vae: Any, segments: int, seed: int, folder: Path) -> Callable[[], int]:
    from throughline.nodes.assembling import assemble_run
    from throughline.runs.assemble import AssemblySettings

    run = make_run(folder, segments, seed)

    def film() -> int:
        return assemble_run(run, vae, AssemblySettings(crf=CRF), "bench", {}).frames

    return film


def _core(vae: Any, segments: int, seed: int, folder: Path) -> Callable[[], int]:
    import torch
    from comfy_extras.nodes_video import CreateVideo, SaveVideo
    from nodes import VAEDecode

    run = make_run(folder, segments, seed)
    parts = [run.latent(0)] + [run.latent(i)[:, :, HANDED:] for i in range(1, segments)]
    latent = {"samples": torch.cat(parts, 2)}
    codec = {"codec": "h264", "encoding": {"encoding": "re-encode", "crf": CRF}}
    save = SaveVideo.PREPARE_CLASS_CLONE(None)

    def film() -> int:
        (images,) = VAEDecode().decode(vae, latent)
        video = CreateVideo.execute(images, FPS).args[0]
        save.execute(video, "bench", "mp4", codec)
        return int(images.shape[0])

    return film


def make_run(folder: Path, segments: int, seed: int) -> Any:
    """One long take of smooth, slowly changing latents in a run folder."""
    import torch

    from throughline.planning.segments import Segment
    from throughline.runs.folder import RunFolder

    generator = torch.Generator().manual_seed(seed)
    plan = [
        Segment(
            index=i,
            shot=0,
            shot_id="1.1",
            chain=0,
            start="tail" if i else "text",
            latent_frames=LATENT_FRAMES,
            known_latent_frames=HANDED if i else 0,
            prompt="",
            negative="",
            seed=seed + i,
        )
        for i in range(segments)
    ]
    last = _smooth(generator)
    with RunFolder.open(folder / "throughline", "bench", {"fps": FPS}, plan) as run_folder:
        for segment in plan:
            goal = _smooth(generator)
            steps = [last + (goal - last) * i / LATENT_FRAMES for i in range(LATENT_FRAMES)]
            run_folder.write_segment(segment.index, torch.cat(steps, 2), {}, 0.0)
            last = steps[-1]
        return run_folder.run


def _smooth(generator: Any) -> Any:
    import torch

    coarse = torch.randn(1, 16, SIDE // 4, SIDE // 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    return fine.unsqueeze(2)


def _measured(film: Callable[[], int]) -> dict[str, float]:
    """Run `film`, which gives its frames, and read what this process took for it."""
    import psutil

    before = psutil.Process().memory_info().rss
    started, started_cpu = time.perf_counter(), time.process_time()
    frames = film()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    return {
        "frames": frames,
        "peak_ram_mb": round(_peak_bytes() / 1e6, 1),
        "ram_before_mb": round(before / 1e6, 1),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
    }


def _peak_bytes() -> int:
    """The operating system's own high-water mark of this process."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
