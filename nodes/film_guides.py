"""Makes the guides of a film's segments, each when its segment is about to be sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.blank import BlankClips, ClipFiles
from ..adapters.family import Conditioning
from ..adapters.guide import Guide, clip_pictures, guide_latent, small_picture
from ..adapters.keyframe_latents import start_latent
from ..adapters.sampling import SamplerSettings, sample_segment
from ..planning.film_plan import Stretch, clip_places, windows_of
from ..planning.segments import Segment
from .film_codes import FilmCodes, KnownOf
from .film_memory import ReadLatent

if TYPE_CHECKING:
    from comfy.utils import ProgressBar

    from ..adapters.lora_switch import LoraSwitch
    from .film import Film

Encode = Callable[[Segment], Conditioning]

ShowPicture = Callable[[torch.Tensor, int], Any]
"""A preview of one latent frame of what is being made."""


class FilmGuides:
    """The guides of one film while it is made; what is planned lives as long as its segments need.

    A plan is a pure function of the film and of the segments that are finished: after a crash it is
    made again, to the same bits. `read` gives the latent of a finished segment, `known` what a
    segment begins with where that is no tail, `positive` and `negative` encode its texts.
    """

    def __init__(
        self,
        film: Film,
        read: ReadLatent,
        known: KnownOf,
        positive: Encode,
        negative: Encode,
        files: ClipFiles,
    ) -> None:
        self._film, self._read, self._known = film, read, known
        self._positive, self._negative, self._files = positive, negative, files
        self._windows = windows_of(film.segments)
        self._stretch: Stretch | None = None
        self._pictures: torch.Tensor | None = None
        self._codes = None
        if film.hierarchy.plan is not None and film.hierarchy.plan.planner is not None:
            self._codes = FilmCodes(film, film.hierarchy.plan.planner, read, known, positive)

    def guide(
        self,
        segment: Segment,
        loras: LoraSwitch,
        settings: SamplerSettings,
        progress: ProgressBar,
        picture: ShowPicture,
    ) -> Guide | None:
        """What the segment follows, None where it follows nothing. A small clip that is needed is
        sampled first, with steps and pictures on the bar."""
        film = self._film
        plan, stretch = film.hierarchy.plan, film.hierarchy.stretch_of(segment.index)
        if plan is None:
            return None
        if stretch is not None:
            if stretch != self._stretch:
                self._pictures = self._small_clip(stretch, loras, settings, progress, picture)
                self._stretch = stretch
            latent = self._enlarged(stretch, segment)
        elif self._codes is not None:
            latent = self._codes.guide(segment)
        else:
            return None
        return Guide(latent=latent, start_noise=plan.start_noise, as_control=plan.as_control)

    def _small_clip(
        self,
        stretch: Stretch,
        loras: LoraSwitch,
        settings: SamplerSettings,
        progress: ProgressBar,
        picture: ShowPicture,
    ) -> torch.Tensor:
        """The pictures [n, h, w, 3] of a stretch, sampled at once from the texts of all of it."""
        film, vae = self._film, self._film.request.vae
        first = film.segments[stretch.first]
        told = _together(stretch, film.segments)
        height, width = film.hierarchy.small
        start = latent = None
        if stretch.known:
            begun = self._begins_with(first)
            assert begun is not None
            start = small_picture(vae, begun, height, width)
            latent = start_latent(vae, start)
        done = progress.current

        def show(step: int, denoised: torch.Tensor, noisy: torch.Tensor, steps: int) -> None:
            middle = picture(denoised, denoised.shape[2] // 2)
            progress.update_absolute(done + step + 1, progress.total, middle)

        made = sample_segment(
            film.family,
            loras.model,
            BlankClips(vae, start, self._files),
            self._positive(told),
            self._negative(told),
            settings,
            film.geometry.latent_shape(stretch.latent_frames, height, width),
            latent,
            film.hierarchy.seed_of(stretch.first),
            show,
            loras.dress(film.loras.of(first)),
        )
        progress.update_absolute(done + settings.steps)
        return clip_pictures(vae, made)

    def _enlarged(self, stretch: Stretch, segment: Segment) -> torch.Tensor:
        assert self._pictures is not None
        request, grid = self._film.request, self._film.geometry.grid
        places = clip_places(stretch, self._windows[segment.index], grid)
        return guide_latent(request.vae, self._pictures, places, request.height, request.width)

    def _begins_with(self, segment: Segment) -> torch.Tensor | None:
        """The latent frames b c k h w that a segment is handed or given."""
        if segment.start == "tail":
            return self._read(segment.index - 1)[:, :, -segment.known_latent_frames :]
        return self._known(segment)


def _together(stretch: Stretch, segments: Sequence[Segment]) -> Segment:
    """A segment that says what all of a stretch say, in their order, each text once."""
    chosen = [segments[index] for index in stretch.segments]
    return replace(
        chosen[0],
        prompt=_joined([one.prompt for one in chosen]),
        negative=_joined([one.negative for one in chosen]),
    )


def _joined(texts: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(filter(None, (text.strip() for text in texts))))
