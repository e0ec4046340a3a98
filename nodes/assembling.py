"""From a run and a VAE to a film and to a drift report: where decoding and the run folder meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
from comfy.cli_args import args

from ..adapters.decode import check_channels, decode_chain, vae_grid
from ..adapters.fingerprint import fingerprint_vae
from ..memory.drift import DriftReport, drift_report
from ..runs.assemble import AssemblySettings, Film, assemble, check_run, work_frames
from ..runs.film import segment_frames
from ..runs.measures import measure_run
from ..runs.run import Run

if TYPE_CHECKING:
    from comfy.sd import VAE


def assemble_run(
    run: Run,
    vae: VAE,
    settings: AssemblySettings,
    filename_prefix: str,
    metadata: Mapping[str, Any],
) -> Film:
    """Make the film of a run below ComfyUI's output folder, with progress on the node.

    Everything that can be refused is refused before the first frame is decoded.
    """
    refusal = prefix_refusal(filename_prefix)
    if refusal is not None:
        raise ValueError(refusal)
    grid = vae_grid(vae)
    height, width = _picture_size(run, vae)
    fps = check_run(run, width, height, settings)
    output = Path(folder_paths.get_output_directory())
    return assemble(
        run,
        partial(decode_chain, vae),
        grid,
        settings,
        fps,
        fingerprint_vae(vae),
        output,
        partial(_choose_file, filename_prefix, output, width, height),
        metadata,
        _progress(work_frames(run, grid, settings)),
    )


def report_drift(run: Run, vae: VAE) -> DriftReport:
    """Measure the film of a run; what an assembly measured already is not decoded again."""
    grid = vae_grid(vae)
    _picture_size(run, vae)
    for record in run.segments:  # a damaged one is named now and not after an hour
        run.latent(record.index)
    total = sum(segment_frames(run, grid))
    decode = partial(decode_chain, vae)
    return drift_report(measure_run(run, decode, grid, fingerprint_vae(vae), 0, _progress(total)))


def file_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, Any]:
    """What core's SaveVideo writes into a file, so that dropping it on the page loads the graph."""
    if args.disable_metadata:
        return {}
    metadata = dict(extra_pnginfo or {})
    if prompt is not None:
        metadata["prompt"] = prompt
    return metadata


def prefix_refusal(filename_prefix: str) -> str | None:
    """Why a file name prefix is refused, or None. It is one below ComfyUI's output folder."""
    output = folder_paths.get_output_directory()
    normal = os.path.normpath(filename_prefix)
    if (
        not filename_prefix.strip()
        or normal in (".", "..")
        or filename_prefix.endswith(("/", "\\"))
    ):
        return f"filename prefix must end in a file name, got {filename_prefix!r}"
    if "\x00" in filename_prefix:
        return f"filename prefix must be plain text, got {filename_prefix!r}"
    folder = os.path.join(output, os.path.dirname(normal))
    if not folder_paths.is_within_directory(output, folder):
        return f"filename prefix must stay inside ComfyUI's output folder, got {filename_prefix!r}"
    return None


def _picture_size(run: Run, vae: VAE) -> tuple[int, int]:
    """Height and width of the film in pixels; refuses an unfinished run and another model's VAE."""
    given: object = run
    if not isinstance(given, Run):
        raise ValueError(f"run must come from a Throughline sampler, got {type(given).__name__}")
    run.require_finished()
    _, channels, _, height, width = run.latent(0).shape
    check_channels(vae, channels)
    pixels = vae.spacial_compression_decode()
    return height * pixels, width * pixels


def _choose_file(prefix: str, output: Path, width: int, height: int, extension: str) -> Path:
    """A new numbered file as core's save nodes name them."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        prefix, str(output), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_{extension}"


def _progress(total: int) -> Callable[[int], None]:
    bar = comfy.utils.ProgressBar(total)
    return lambda frames: bar.update(frames)
