"""The memory of an assembly does not grow with the film. Each film in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ASSEMBLER = """
import importlib.util, sys
from pathlib import Path
root, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "throughline", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["throughline"] = importlib.util.module_from_spec(spec)
import psutil, torch
torch.set_num_threads(1)
from throughline.planning.frames import FrameGrid
from throughline.planning.segments import Segment
from throughline.runs.assemble import AssemblySettings, assemble, check_run
from throughline.runs.folder import RunFolder
segments = [
    Segment(index=i, shot=i, shot_id=str(i), chain=0, start="tail" if i else "text",
            latent_frames=6, known_latent_frames=1 if i else 0, prompt="p", negative="", seed=i)
    for i in range(count)
]
generator = torch.Generator().manual_seed(0)
with RunFolder.open(folder / "throughline", "film", {"fps": 8}, segments) as run_folder:
    for segment in segments:
        coarse = torch.rand(6, 3, 4, 4, generator=generator)
        latent = torch.nn.functional.interpolate(coarse, (192, 192)).movedim(0, 1)[None]
        run_folder.write_segment(segment.index, latent, {}, 0.0)
    run = run_folder.run

def decode(pieces):
    first = True
    for piece in pieces:
        for latent in piece[0].unbind(1):
            yield latent.permute(1, 2, 0).expand(1 if first else 4, -1, -1, -1).clone()
            first = False

process, peak = psutil.Process(), 0

def watch(frames):
    global peak
    peak = max(peak, process.memory_info().rss)

settings = AssemblySettings()
film = assemble(run, decode, FrameGrid(4), settings, check_run(run, 192, 192, settings), "vae",
                folder, lambda extension: folder / ("film" + extension), {}, watch)
sys.stdout.write(f"{film.frames} {peak}")
"""


def frames_and_peak(folder: Path, segments: int) -> tuple[int, int]:
    """Frames of the film and the largest resident memory while it was made, in bytes."""
    folder.mkdir()
    command = [sys.executable, "-c", ASSEMBLER, str(ROOT), str(folder), str(segments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    frames, peak = output.split()
    return int(frames), int(peak)


@pytest.mark.slow
def test_four_times_the_film_takes_no_more_memory(tmp_path: Path) -> None:
    short_frames, short = frames_and_peak(tmp_path / "short", 12)
    long_frames, long = frames_and_peak(tmp_path / "long", 48)
    assert (short_frames, long_frames) == (21 + 11 * 20, 21 + 47 * 20)
    held = (long_frames - short_frames) * 192 * 192 * 3 * 4  # what a film in memory would add
    assert long - short < 0.1 * held
    assert long <= 1.1 * short
