"""What a film remembers: decided before anything is sampled, encoded while it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.attach import attach_memory, can_remember
from ..adapters.encoders import check_fits
from ..adapters.family import Conditioning
from ..adapters.history import HistoryWriter, remember
from ..adapters.keyframe_latents import start_latent
from ..adapters.memory_value import HistoryClip, Memory
from ..adapters.recalled import with_recalled
from ..adapters.sampling import SamplerSettings
from ..memory.bank import MemoryBank
from ..planning.recall import pinned_segments, segment_starts, with_recall
from ..planning.segments import Segment
from ..runs.heap import give_back_freed_memory
from ..runs.keys import MEMORY
from .film_keyframes import FilmKeyframes, film_pixels

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ReadLatent = Callable[[int], torch.Tensor]
"""The latent b c t h w of a finished segment, by its index."""


@dataclass(frozen=True, kw_only=True)
class FilmMemory:
    """How a film is remembered; `memory` is None for a film that remembers nothing. `keyframes`
    that are `remembered` stand before the film like references."""

    memory: Memory | None = None
    strength: float = 1.0
    keyframes: FilmKeyframes = FilmKeyframes()

    def parameters(self) -> dict[str, Any]:
        """The entry of the run's parameters; none without a memory."""
        if self.memory is None:
            return {}
        said = self.memory.describe()
        return {MEMORY: {**said, "strength": self.strength, "vae": self.memory.vae_digest}}


def plan_memory(
    given: object,
    strength: float | None,
    segments: Sequence[Segment],
    models: Sequence[ModelPatcher],
    latent_size: tuple[int, int],
    keyframes: FilmKeyframes,
) -> tuple[FilmMemory, tuple[Segment, ...]]:
    """Read the input `memory` and decide what each segment remembers.

    `latent_size` (height, width) is the film's. Raises ValueError for another value, a model that
    memory cannot enter or that it was not made for, another size, and a memory that would stay
    empty.
    """
    if given is None:
        return FilmMemory(), tuple(segments)
    if not isinstance(given, Memory):
        raise ValueError(f"memory must come from a memory encoder node, got {type(given).__name__}")
    share = 1.0 if strength is None else strength
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"memory_strength must be 0 to 1, got {share}")
    for model in models:
        check_memory_fits(given, model)
    if given.latent_size not in (None, latent_size):
        scale = given.vae.spacial_compression_encode()
        height, width = given.latent_size
        raise ValueError(
            f"memory must be of the film's size, {latent_size[1] * scale} x "
            f"{latent_size[0] * scale} pixels, got {width * scale} x {height * scale}: set width "
            "and height of the memory encoder"
        )
    shown = any(entry.shot for entry in given.bank.entries)
    if keyframes.remembered and shown and segments[0].start == "latent":
        raise ValueError(
            "keyframe_use with context through the memory cannot go with a start latent that the "
            "memory was given, too: choose another keyframe_use, or give the memory references only"
        )
    anything = bool(given.bank.entries) or keyframes.remembered
    planned = with_recall(segments, given.policy, anything)
    if all(segment.recalls is None for segment in planned) and len(planned) > 1:
        raise ValueError(
            "memory must hold something or be allowed to, got an empty one that remembers neither "
            "the first shot nor recent segments: connect references to the memory encoder, or pin "
            "the first shot"
        )
    return FilmMemory(memory=given, strength=share, keyframes=keyframes), planned


def check_memory_fits(memory: Memory, model: ModelPatcher) -> None:
    """Refuse a memory for a model that it was not made for. Raises ValueError naming both."""
    can_remember(model)
    for encoder in memory.encoders:
        check_fits(encoder.card, model)
    channels = int(model.get_model_object("latent_format").latent_channels)
    made = int(memory.latent_format.latent_channels)
    if channels != made:
        raise ValueError(
            f"memory must hold the model's latents ({channels} channels), got {made} channels: "
            "connect the same model to the memory encoder"
        )


class FilmRecorder:
    """The memory of one film while it is made: each segment is encoded once, when it is first
    remembered."""

    def __init__(
        self,
        plan: FilmMemory,
        segments: Sequence[Segment],
        read: ReadLatent,
        caption: Callable[[Segment], Conditioning],
        latent_size: tuple[int, int],
    ) -> None:
        self._latent_size = latent_size
        self._plan, self._segments, self._read, self._caption = plan, segments, read, caption
        self._memory: Memory | None = None
        self._writer: HistoryWriter | None = None
        if plan.memory is not None:
            self._starts = segment_starts(segments, plan.memory.policy.stream)
            self._pinned = pinned_segments(segments, plan.memory.policy)

    def attach(
        self, segment: Segment, model: ModelPatcher, settings: SamplerSettings
    ) -> tuple[ModelPatcher, SamplerSettings]:
        """The model and its second expert with what the segment remembers."""
        if self._plan.memory is None or segment.recalls is None:
            return model, settings
        memory = self._begun(self._plan.memory)
        start = self._offset(memory) + self._starts[segment.index]
        bank = self._recalled(memory, segment, start)
        give_back_freed_memory()  # decoding for the small pictures leaves holes
        view = memory.view(bank)

        def remembering(one: ModelPatcher) -> ModelPatcher:
            return attach_memory(
                one,
                bank,
                strength=self._plan.strength,
                segment_start_latent_frames=start,
                patchers=(view,),
                cross_attention=memory.cross_attention(bank),
            )

        other = settings.low_noise_model
        if other is not None:
            settings = replace(settings, low_noise_model=remembering(other))
        return remembering(model), settings

    def _begun(self, given: Memory) -> Memory:
        """The memory that the film begins with: what it was given, and the film's keyframes."""
        if self._memory is None:
            self._memory = remember(given, self._keyframe_clips(given))
            self._writer = HistoryWriter(self._memory, self._clip)
        return self._memory

    def _keyframe_clips(self, memory: Memory) -> list[HistoryClip]:
        """The remembered keyframes in the order of the film, one latent frame each."""
        if not self._plan.keyframes.remembered:
            return []
        clips: list[HistoryClip] = []
        scale = memory.vae.spacial_compression_encode()
        height, width = (side * scale for side in self._latent_size)
        for shot in sorted(self._plan.keyframes.plan.shots):
            segment = next(one for one in self._segments if one.shot == shot)
            picture = film_pixels(self._plan.keyframes.picture(shot), height, width)
            clips.append(
                HistoryClip(
                    latents=start_latent(memory.vae, picture),
                    title=f"keyframe of shot {segment.shot_id}",
                    shot=0,
                    start=memory.bank.latent_frames + len(clips),
                    pinned=True,
                    text=segment.prompt,
                    caption=self._states(memory, segment),
                    frames=picture,
                )
            )
        return clips

    def _states(self, memory: Memory, segment: Segment) -> torch.Tensor | None:
        """The text states of a segment's prompt, where an encoder reads them."""
        if not any(encoder.card.caption_dim for encoder in memory.encoders):
            return None
        return self._caption(segment)[0][0]

    def _recalled(self, memory: Memory, segment: Segment, start: int) -> MemoryBank:
        """What the segment remembers, and what of that its own caption finds."""
        assert self._writer is not None and segment.recalls is not None
        bank = self._writer.bank(segment.recalls)
        if not any(encoder.card.address_dim for encoder in memory.encoders):
            return bank
        caption = self._caption(segment)[0][0]
        latent = (segment.latent_frames, *self._latent_size)
        return with_recalled(
            bank, memory.encoders, memory.cache, memory.dtype, caption, latent, start
        )

    def _offset(self, memory: Memory) -> int:
        """The film begins where what the memory was given ends; a latent that it continues is the
        end of that already."""
        first, end = self._segments[0], memory.bank.latent_frames
        shown = any(entry.shot for entry in memory.bank.entries)
        if first.start == "latent" and shown and memory.policy.stream == "chain":
            return end - first.known_latent_frames
        return end

    def _clip(self, index: int) -> HistoryClip:
        memory, segment = self._memory, self._segments[index]
        assert memory is not None
        continues = segment.start == "tail"
        return HistoryClip(
            latents=self._read(index),
            title=f"segment {segment.number}",
            shot=segment.shot + 1,
            start=self._offset(memory) + self._starts[index],
            pinned=index in self._pinned,
            handed=segment.known_latent_frames if continues else 0,
            continues=continues,
            text=segment.prompt,
            caption=self._states(memory, segment),
        )
