"""From latents to frames without ever holding a whole film: a chain is decoded piece by piece.

Wan's two VAE classes keep a cache of features between latent frames. Fed by hand with that cache,
in the groups that the classes themselves use, they give the frames of the whole chain exactly.
Every other video VAE decodes windows that share latent frames with their neighbours, and the
shared part is dropped; what that costs in exactness is measured at CONTEXT and LOOKAHEAD.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from ..planning.frames import FrameGrid

if TYPE_CHECKING:
    from comfy.sd import VAE

CONTEXT = 6
"""Latent frames before a window that are decoded again and dropped. Measured with small random
networks of the classes, which reach further back in time than trained ones, as mean error by the
picture's standard deviation: HunyuanVideo 0.098, 0.033, 0.005 and LTXV 0.043, 0.005, 0.004 with 2,
4 and 6 of them (tests/adapters/test_decode.py)."""

LOOKAHEAD = 3
"""Latent frames after a window that are decoded early and dropped, for decoders that look ahead.
LTXV, measured as above: 0.235, 0.116, 0.026, 0.004 with 0 to 3 of them."""

WINDOW = 12
"""New latent frames per window: 21 with context and lookahead, so that a window needs no more
memory than core's VAEDecode needs for one Wan segment of 81 frames."""

GRID_CHECKED = 8
"""Latent frames up to which the VAE's own frame count is compared with the k*n+1 grid."""

log = logging.getLogger(__name__)


def decode_chain(vae: VAE, latents: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Decode consecutive pieces of one latent, [1, c, t, h, w] each, as one clip.

    Gives frames [n, height, width, 3] in 0..1, float32 on the CPU, as soon as they are known: n is
    what falls out, not what a piece holds; the sum is `vae_grid(vae).frames(all t)`. Memory does
    not grow with the number of pieces. For Wan 2.1 and 2.2 VAEs the frames equal
    `vae.decode` of the whole latent; for others see the top of this file. The interrupt button
    works between groups of frames. Raises ValueError for a VAE that is not a video VAE with a
    k*n+1 frame grid, and for latents of other channels than the VAE's.
    """
    grid = vae_grid(vae)
    pieces = _checked(vae, latents)
    group = _exact_groups(vae)
    if group is None:
        return _decode_windows(vae, grid, pieces, None)
    return _decode_groups(vae, grid, pieces, *group)


def vae_grid(vae: VAE) -> FrameGrid:
    """The frame grid of a video VAE. Raises ValueError, by name, for any other VAE."""
    name = type(vae.first_stage_model).__name__
    if vae.latent_dim != 3:
        raise ValueError(f"vae must be a video VAE, got {name}, which is for images or sound")
    grid = FrameGrid(max(1, vae.temporal_compression_decode() or 1))
    to_frames = vae.upscale_ratio[0]
    for latent_frames in range(1, GRID_CHECKED + 1):
        if to_frames(latent_frames) != grid.frames(latent_frames):
            raise ValueError(
                f"vae must decode n latent frames to {grid.frames_per_latent}(n-1)+1 frames to be "
                f"streamed, got {name}, which makes {to_frames(latent_frames)} of {latent_frames}; "
                "decode its segments with core's VAE Decode"
            )
    return grid


def check_channels(vae: VAE, channels: int) -> None:
    """Refuse a VAE whose latents have other channels than those of a run."""
    if vae.latent_channels != channels:
        raise ValueError(
            f"this VAE has {vae.latent_channels} latent channels, the run has {channels}: connect "
            "the VAE that the run was made with"
        )


Groups = tuple[Callable[[torch.Tensor], torch.Tensor], int, int]
"""A step that decodes one group of latent frames and keeps the cache, the latent frames of the
first group, and of each later one."""


def _exact_groups(vae: VAE) -> Groups | None:
    """How the VAE class itself walks through a clip, or None where it keeps no cache between."""
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2

    model = vae.first_stage_model
    if type(model) is comfy.ldm.wan.vae.WanVAE:
        return _wan21_step(model, comfy.ldm.wan.vae.count_cache_layers(model.decoder)), 1, 2
    if type(model) is comfy.ldm.wan.vae2_2.WanVAE:
        return _wan22_step(model, comfy.ldm.wan.vae2_2.count_conv3d(model.decoder)), 1, 1
    return None


def _wan21_step(model: Any, cache_layers: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The body of the loop in comfy.ldm.wan.vae.WanVAE.decode (ComfyUI 0.30.0)."""
    cache: list[object] = [None] * cache_layers

    def step(latent: torch.Tensor) -> torch.Tensor:
        parts = model.decoder(model.conv2(latent), feat_cache=cache, feat_idx=[0])
        return torch.cat(parts, 2)

    return step


def _wan22_step(model: Any, cache_layers: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The body of the loop in comfy.ldm.wan.vae2_2.WanVAE.decode (ComfyUI 0.30.0)."""
    from comfy.ldm.wan.vae2_2 import unpatchify

    cache: list[object] = [None] * cache_layers
    first = [True]

    def step(latent: torch.Tensor) -> torch.Tensor:
        frames = model.decoder(
            model.conv2(latent), feat_cache=cache, feat_idx=[0], first_chunk=first[0]
        )
        first[0] = False
        return unpatchify(frames, patch_size=2)

    return step


def _decode_groups(
    vae: VAE,
    grid: FrameGrid,
    pieces: Iterator[torch.Tensor],
    step: Callable[[torch.Tensor], torch.Tensor],
    first: int,
    then: int,
) -> Iterator[torch.Tensor]:
    """Exact streaming; after running out of memory the rest goes through windows."""
    from comfy import model_management

    recent: torch.Tensor | None = None
    groups = regroup(pieces, first, then)
    for group in groups:
        model_management.throw_exception_if_processing_interrupted()
        frames = None
        try:
            if recent is None:
                _reserve(vae, group)
            frames = _run_step(vae, step, group)
        except Exception as error:
            model_management.raise_non_oom(error)
        if frames is None:
            del step  # its cache is what fills the memory
            model_management.soft_empty_cache()
            log.warning(
                "Out of memory while decoding; the rest of this scene is decoded in tiles and "
                "windows, which is slower and not exactly equal."
            )
            yield from _decode_windows(vae, grid, chain([group], groups), recent)
            return
        yield frames
        recent = group if recent is None else torch.cat([recent, group], 2)[:, :, -CONTEXT:]


def _reserve(vae: VAE, latent: torch.Tensor) -> None:
    """Load the VAE and make room for decoding, once per clip, with core's own accounting.

    The estimate is that of a long clip: between groups the caches of all layers stay alive, so
    asking again for every group would count them twice.
    """
    from comfy import model_management

    shape = (1, latent.shape[1], GRID_CHECKED, *latent.shape[3:])
    memory = vae.memory_used_decode(shape, vae.vae_dtype)
    with model_management.cuda_device_context(vae.device):
        model_management.load_models_gpu(
            [vae.patcher], memory_required=memory, force_full_load=vae.disable_offload
        )


def _run_step(
    vae: VAE, step: Callable[[torch.Tensor], torch.Tensor], latent: torch.Tensor
) -> torch.Tensor:
    """One group of latent frames to frames [n, h, w, 3]."""
    from comfy import model_management

    with model_management.cuda_device_context(vae.device), torch.no_grad():
        out = step(latent.to(device=vae.device, dtype=vae.vae_dtype))
        out = out.to(device=vae.output_device, dtype=vae.vae_output_dtype(), copy=True)
        return _frames(vae.process_output(out).movedim(1, -1)[0])


def _decode_windows(
    vae: VAE,
    grid: FrameGrid,
    pieces: Iterator[torch.Tensor],
    context: torch.Tensor | None,
) -> Iterator[torch.Tensor]:
    """Windows with shared latent frames; `context` are the latent frames just before the first."""
    from comfy import model_management

    waiting: torch.Tensor | None = None
    for piece in chain(pieces, [None]):
        if piece is not None:
            waiting = piece if waiting is None else torch.cat([waiting, piece], 2)
        while waiting is not None and (piece is None or waiting.shape[2] >= WINDOW + LOOKAHEAD):
            model_management.throw_exception_if_processing_interrupted()
            new = waiting[:, :, :WINDOW]
            yield _decode_window(vae, grid, context, new, waiting[:, :, WINDOW:][:, :, :LOOKAHEAD])
            known = new if context is None else torch.cat([context, new], 2)
            context = known[:, :, -CONTEXT:]
            waiting = waiting[:, :, WINDOW:] if waiting.shape[2] > WINDOW else None


def _decode_window(
    vae: VAE,
    grid: FrameGrid,
    context: torch.Tensor | None,
    new: torch.Tensor,
    lookahead: torch.Tensor,
) -> torch.Tensor:
    """The frames of `new` latent frames, decoded among their neighbours."""
    before = 0 if context is None else context.shape[2]
    parts = [new, lookahead] if context is None else [context, new, lookahead]
    window = torch.cat(parts, 2)
    with torch.no_grad():
        frames = vae.decode(window)[0]
    expected = grid.frames(window.shape[2])
    if frames.shape[0] != expected:
        raise ValueError(
            f"{type(vae.first_stage_model).__name__} must make {expected} frames of "
            f"{window.shape[2]} latent frames, got {frames.shape[0]}"
        )
    skipped = grid.frames(before) if before else 0
    return _frames(frames[skipped : grid.frames(before + new.shape[2])])


def _frames(frames: torch.Tensor) -> torch.Tensor:
    """Frames [n, h, w, channels] as the film wants them; further channels (alpha) are dropped."""
    return frames[..., :3].to(device="cpu", dtype=torch.float32)


def _checked(vae: VAE, latents: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for latent in latents:
        if latent.ndim != 5 or latent.shape[0] != 1:
            raise ValueError(f"latents must be [1, c, t, h, w], got {list(latent.shape)}")
        check_channels(vae, latent.shape[1])
        if latent.shape[2]:
            yield latent


def regroup(pieces: Iterable[torch.Tensor], first: int, then: int) -> Iterator[torch.Tensor]:
    """Cut a sequence of pieces (b c t h w) anew along t: `first`, then `then` each, then the rest.

    The last group may be shorter, as in the VAEs themselves.
    """
    waiting: torch.Tensor | None = None
    size = first
    for piece in pieces:
        waiting = piece if waiting is None else torch.cat([waiting, piece], 2)
        while waiting.shape[2] >= size:
            yield waiting[:, :, :size]
            waiting = waiting[:, :, size:]
            size = then
    if waiting is not None and waiting.shape[2]:
        yield waiting
