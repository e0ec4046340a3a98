"""Encoded stories from a folder, and the tensors of a training step.

A story is one safetensors file: `latents` s c t h w in the model's input space, `low.RATE`
s c cells h w (a small picture per cell, see memory/rates.py: cell_frames), `text` s n d. All
segments of a folder have one shape. Where the metadata key `text_tokens` is greater than n, the
model reads zeros behind the text states, as Wan does (diffusers, WanPipeline): they are not stored.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..memory.rates import Rate
from .memory_plan import MASK_LEVELS, Query, StepPlan


class StoryFolder:
    """All stories of a folder, in memory; raises ValueError when there is none."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        paths = sorted(folder.glob("story_*.safetensors"))[:limit]
        if not paths:
            raise ValueError(f"{folder} holds no encoded stories (story_*.safetensors)")
        self.stories = [load_file(path) for path in paths]  # mapped, read when used
        with safe_open(paths[0], "pt") as file:
            self.metadata: dict[str, str] = file.metadata() or {}
        self.scenes = [_scenes(path) for path in paths]
        tokens = self.stories[0]["text"].shape[1]
        self.text_tokens = int(self.metadata.get("text_tokens", tokens))

    def __len__(self) -> int:
        return len(self.stories)

    @property
    def scenes_if_any(self) -> list[list[str]]:
        """Scenes of all stories; nothing when a story does not name them."""
        return self.scenes if all(self.scenes) else []

    @property
    def segments(self) -> int:
        """Segments of every story."""
        return min(len(story["latents"]) for story in self.stories)

    @property
    def latent_shape(self) -> torch.Size:
        """`c t h w` of every segment."""
        return self.stories[0]["latents"].shape[1:]

    @property
    def text_dim(self) -> int:
        return int(self.stories[0]["text"].shape[-1])

    def text(self, story: dict[str, Tensor], segments: list[int]) -> Tensor:
        """Text states `s n d` of these segments, as long as the model reads them."""
        states = story["text"][segments].float()
        missing = self.text_tokens - states.shape[1]
        return F.pad(states, (0, 0, 0, missing)) if missing > 0 else states


def _scenes(path: Path) -> list[str]:
    """The scene of every segment: what its caption says before the first comma."""
    with safe_open(path, "pt") as file:
        captions = json.loads((file.metadata() or {}).get("captions", "[]"))
    return [str(caption).partition(",")[0] for caption in captions]


@dataclass(frozen=True)
class StepTensors:
    """Histories `latents` (h s c t h w) and `low` by rate, their `captions` (h s n d), the queried
    frames `targets` (q c f h w) with their `text` (q n d) and `start` (q). `history` (q) says whose
    history a query reads, `known` (q f) which of its frames are given."""

    latents: Tensor
    low: dict[str, Tensor]
    captions: Tensor
    targets: Tensor
    text: Tensor
    start: Tensor
    history: Tensor
    known: Tensor

    def to(self, device: torch.device) -> "StepTensors":
        """The same step on a device."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if field.name != "low"
        }
        low = {rate: value.to(device) for rate, value in self.low.items()}
        return StepTensors(**moved, low=low)


def step_tensors(
    data: StoryFolder,
    plan: StepPlan,
    rates: tuple[Rate, ...],
    generator: np.random.Generator,
    empty_caption: Tensor | None = None,
    empty_share: float = 0.0,
) -> StepTensors:
    """Gather the step's histories and targets; in Stage I all but the queried frames are masked.

    A caption is replaced by `empty_caption` (n d) in `empty_share` of the queries.
    """
    chosen = [(data.stories[h.story], list(h.segments)) for h in plan.histories]
    latents = torch.stack([story["latents"][segments] for story, segments in chosen]).float()
    low = {
        str(rate): torch.stack([story[f"low.{rate}"][segments] for story, segments in chosen])
        for rate in rates
        if rate.volume > 1  # a picture that is not made smaller is its latents
    }
    low = {rate: value.float() for rate, value in low.items()}
    if plan.task == "frames":
        latents, low = _masked(plan, latents, low, generator)
    captions = torch.stack([data.text(story, segments) for story, segments in chosen])
    targets, text, known = [], [], []
    for query in plan.queries:
        story = chosen[query.history][0]
        frames = slice(query.first, query.first + query.frames)
        targets.append(story["latents"][query.segment, :, frames].float())
        empty = empty_caption is not None and generator.uniform() < empty_share
        text.append(empty_caption if empty else data.text(story, [query.segment])[0])
        known.append(torch.arange(query.frames) < query.prefix)
    return StepTensors(
        latents=latents,
        low=low,
        captions=captions,
        targets=torch.stack(targets),
        text=torch.stack(text),
        start=torch.tensor([float(query.start) for query in plan.queries]),
        history=torch.tensor([query.history for query in plan.queries]),
        known=torch.stack(known),
    )


def mask_levels(plan: StepPlan, latent_frames: int, generator: np.random.Generator) -> Tensor:
    """Noise level of every latent frame of the histories, `h s t`: 0 for queried ones."""
    count = len(plan.histories[0].segments)
    levels = generator.uniform(*MASK_LEVELS, (len(plan.histories), count, latent_frames))
    for query in plan.queries:
        index = _index(plan, query)
        levels[query.history, index, query.first : query.first + query.frames] = 0.0
    return torch.from_numpy(levels).float()


def _index(plan: StepPlan, query: Query) -> int:
    return plan.histories[query.history].segments.index(query.segment)


def _masked(
    plan: StepPlan, latents: Tensor, low: dict[str, Tensor], generator: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise as mask (paper v6, section 3.2), also on the small pictures of masked frames."""
    levels = mask_levels(plan, latents.shape[3], generator)
    noise = torch.Generator().manual_seed(int(generator.integers(2**62)))

    def mix(x: Tensor, at: Tensor) -> Tensor:
        return torch.lerp(x, torch.randn(x.shape, generator=noise), at[:, :, None, :, None, None])

    masked = {}
    for name, value in low.items():
        time = Rate.parse(name).time
        cells = torch.arange(value.shape[3]) * time + (time - 1) // 2
        masked[name] = mix(value, levels[:, :, cells.clamp(max=latents.shape[3] - 1)])
    return mix(latents, levels), masked
