"""What a memory holds, as a sheet of pictures; and what a model gets back out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from ..adapters.attach import attach_memory
from ..adapters.blank import BlankClips
from ..adapters.families import family_of
from ..adapters.family import Conditioning
from ..adapters.history import thumbnail
from ..adapters.memory_value import HistoryClip, Memory
from ..adapters.sampling import SamplerSettings, sample_segment, schedule_sigmas
from ..adapters.text import check_text, text_width
from ..memory.bank import MemoryEntry
from .film_memory import check_memory_fits

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

QUERY_LATENT_FRAMES = 4
"""Of one query: the longest run of frames that Stage I asks for (training/memory_plan.py)."""

EMPTY_TOKENS = 16
"""Length of a text without a text encoder; all of it zero (our choice)."""

SAMPLER, SCHEDULER = "euler", "simple"
COLUMNS = 4
CELL = 128
"""Side in pixels of a picture on the sheet; entries keep theirs at this size."""

LABEL = 16
GAP = 4
PAPER, INK = (24, 24, 27), (228, 228, 231)


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """The inputs of ThroughlineMemoryPreview."""

    memory: Memory
    model: ModelPatcher | None
    clip: CLIP | None
    steps: int
    seed: int


def preview_memory(request: PreviewRequest) -> tuple[torch.Tensor, str]:
    """The sheet [1, height, width, 3] in 0..1 and a report in lines of text."""
    memory, bank = request.memory, request.memory.bank
    asks = request.model is not None and bank.trained
    if request.model is not None:
        check_memory_fits(memory, request.model)
    lines, tiles = [f"{len(bank.entries)} entries, {bank.tokens} tokens"], []
    progress = comfy.utils.ProgressBar(len(bank.entries))
    for entry in bank.entries:
        line, pictures = f"{entry.title}: {entry.tokens} tokens", [entry.picture]
        if asks and entry.picture is not None:
            found = retrieved_picture(request, entry)
            pictures.append(found)
            line += f", retrieved at {psnr(entry.picture, found):.1f} dB"
        lines.append(line)
        tiles.append(labelled(pictures, f"{entry.title} | {entry.tokens} tokens"))
        progress.update(1)
    if request.model is not None and not asks:
        lines.append("nothing is retrieved: this memory needs no training and has none")
    return sheet_of(tiles), "\n".join(lines)


def retrieved_picture(request: PreviewRequest, entry: MemoryEntry) -> torch.Tensor:
    """The middle of an entry as the model gets it out of the memory, h w 3 in 0..1.

    A Stage I query (design memory-encoder.md, section 2): noise at the entry's own time, and
    nothing else to go by than the memory and the caption.
    """
    memory, model = request.memory, request.model
    assert model is not None and memory.latent_size is not None
    comfy.model_management.throw_exception_if_processing_interrupted()
    middle = entry.latent_frames // 2
    frames = min(QUERY_LATENT_FRAMES, entry.latent_frames)
    first = min(max(0, middle - frames // 2), entry.latent_frames - frames)
    remembering = attach_memory(
        model,
        memory.bank,
        segment_start_latent_frames=entry.start + first,
        patchers=(memory.view(memory.bank),),
        cross_attention=memory.cross_attention(memory.bank),
    )
    text = query_text(request, entry)
    channels = int(memory.latent_format.latent_channels)
    latent = sample_segment(
        family_of(model),
        remembering,
        BlankClips(memory.vae),
        text,
        text,
        SamplerSettings(
            sampler=comfy.samplers.sampler_object(SAMPLER),
            sigmas=schedule_sigmas(model, SAMPLER, SCHEDULER, request.steps),
            cfg=1.0,
        ),
        (1, channels, frames, *memory.latent_size),
        None,
        request.seed,
    )
    found = latent[:, :, middle - first : middle - first + 1]
    clip = HistoryClip(latents=found, title=entry.title, shot=0, start=0, pinned=False)
    return thumbnail(memory.vae, clip)


def query_text(request: PreviewRequest, entry: MemoryEntry) -> Conditioning:
    """The entry's caption, or an empty text of zeros where there is no text encoder."""
    model = request.model
    assert model is not None
    if request.clip is None:
        width = text_width(model)
        if width is None:
            raise ValueError("clip must be connected for this model, got nothing")
        return [[torch.zeros(1, EMPTY_TOKENS, width), {"pooled_output": None}]]
    text = request.clip.encode_from_tokens_scheduled(request.clip.tokenize(entry.caption))
    check_text(model, text, "clip")
    return text


def psnr(real: torch.Tensor, found: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in 0..1, in dB."""
    error = float((real - found).square().mean())
    return 10.0 * math.log10(1.0 / max(error, 1e-10))


def labelled(pictures: list[torch.Tensor | None], text: str) -> torch.Tensor:
    """Pictures side by side above a line of text, h w 3 in 0..1."""
    cells = [cell_of(picture) for picture in pictures]
    row = torch.cat(cells, dim=1)
    label = Image.new("RGB", (row.shape[1], LABEL), PAPER)
    ImageDraw.Draw(label).text((2, 2), text, fill=INK)
    data = torch.frombuffer(bytearray(label.tobytes()), dtype=torch.uint8)
    return torch.cat([row, data.view(LABEL, row.shape[1], 3).float() / 255.0])


def cell_of(picture: torch.Tensor | None) -> torch.Tensor:
    """A picture in the middle of a square cell; an empty one where an entry has none."""
    cell = torch.tensor(PAPER).float().div(255.0).expand(CELL, CELL, 3).clone()
    if picture is None:
        return cell
    scale = CELL / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    scaled = F.interpolate(picture.movedim(-1, 0)[None], size=size, mode="nearest")[0]
    top, left = ((CELL - side) // 2 for side in size)
    cell[top : top + size[0], left : left + size[1]] = scaled.movedim(0, -1)  # c h w -> h w c
    return cell


def sheet_of(tiles: list[torch.Tensor]) -> torch.Tensor:
    """Tiles of one size in rows, [1, height, width, 3]; narrower ones are filled up."""
    height, width = tiles[0].shape[0], max(tile.shape[1] for tile in tiles)
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
    sheet = torch.tensor(PAPER).float().div(255.0).expand(size).clone()
    for index, tile in enumerate(tiles):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        sheet[top : top + height, left : left + tile.shape[1]] = tile
    return sheet[None]
