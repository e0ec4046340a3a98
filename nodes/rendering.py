"""Renders a planned film into its run folder, with progress, previews and events for the page."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import latent_preview
import torch
from PIL import Image

from ..adapters.blank import BlankClips, ClipFiles
from ..adapters.family import Conditioning, with_values
from ..adapters.fingerprint import fingerprint_value
from ..adapters.keyframe_latents import end_latent, start_latent
from ..adapters.lora_switch import Dressed
from ..adapters.sampling import StepCallback, sample_segment
from ..adapters.text import check_text
from ..planning.segments import Segment
from ..runs.atomic import write_atomic
from ..runs.contact_sheet import contact_sheet
from ..runs.folder import RunFolder, plan_run
from ..runs.manifest import FILE_NAME
from ..runs.paths import run_path
from ..runs.render import RenderedSegment, SegmentEvent, render_run
from ..runs.run import Run
from .events import announce_segment
from .film import Film
from .film_context import ContextPictures
from .film_guides import FilmGuides
from .film_keyframes import film_pixels
from .film_memory import FilmRecorder, ReadLatent

if TYPE_CHECKING:
    from comfy.sd import VAE

RUNS_FOLDER = "throughline"
"""Runs lie in this folder of ComfyUI's output folder."""

CLIPS_FOLDER = "throughline_clips"
"""In ComfyUI's temp folder: encoded clips that show nothing yet."""

PREVIEW_SIDE = 256
"""Longest side of a segment's thumbnail in pixels (our choice: a sidebar shows less)."""

PREVIEW_CELLS = 64
"""Longest side of the latent that a thumbnail is decoded from: 512 pixels for strides of 8, twice
the thumbnail (our choice). A VAE wants some 4 GB for one latent frame at 720p; decoding that
between two segments would push part of a large model out of the memory of the GPU each time."""

PREVIEW_QUALITY = 85

SHOWN_STATUS = {"missing": "waiting", "depends": "waiting"}
"""The page's word for a segment that is to be made for lack of anything else."""

PROMPTS_AHEAD = 16
"""Prompts are encoded for this many segments at a time, so that a large text encoder is not loaded
and unloaded around every segment and conditioning does not pile up in a long film (our choice; a
UMT5 conditioning of 512 tokens is 8 MB)."""


@dataclass(frozen=True, kw_only=True)
class RenderedFilm:
    """`last_latent` b c t h w; `sheet` [1, height, width, 3] in 0..1; `summary` in words."""

    run: Run
    last_latent: torch.Tensor
    sheet: torch.Tensor
    summary: str


def runs_root() -> Path:
    return Path(folder_paths.get_output_directory()) / RUNS_FOLDER


def clip_folder() -> Path:
    return Path(folder_paths.get_temp_directory()) / CLIPS_FOLDER


def _write_passing(path: Path, data: bytes) -> None:
    """Whole or not at all, and without waiting for the disk: it can be made again."""
    write_atomic(path, data, durable=False)


def describe_film(film: Film, node_id: str) -> str:
    """What queueing the film would render and why, without rendering or writing anything.

    The page's strip shows the same.
    """
    states = plan_run(runs_root(), film.request.run_name, film.parameters, film.segments)
    lines = []
    for segment, state in zip(film.segments, states, strict=True):
        status = SHOWN_STATUS.get(state.status, state.status)
        announce(film, node_id, segment, status, state.reason)
        outcome = f"to render, {state.reason}" if state.needs_render else "finished"
        lines.append(f"segment {segment.number} ({segment.shot_id}): {outcome}")
    return "\n".join((*lines, *film.notes))


def render_film(film: Film, node_id: str) -> RenderedFilm:
    """Render what the run folder lacks; finished segments are read from disk."""
    request = film.request
    with RunFolder.open(
        runs_root(), request.run_name, film.parameters, film.segments, fps=film.fps
    ) as folder:
        to_render = frozenset(state.index for state in folder.state() if state.needs_render)
        renderer = FilmRenderer(film, node_id, to_render, folder.read_segment)
        rendered = render_run(
            folder, film.segments, renderer.render, renderer.first_known, renderer.report
        )
        run = folder.run
        last = folder.read_segment(film.segments[-1].index)
    return RenderedFilm(
        run=run,
        last_latent=last,
        sheet=contact_sheet(run),
        summary=_summary(film, len(rendered)),
    )


def render_one(film: Film, node_id: str) -> torch.Tensor:
    """The latent b c t h w of a film of one segment, without a run folder."""
    renderer = FilmRenderer(film, node_id, frozenset({0}), _nothing_finished)
    return renderer.sample(film.segments[0], renderer.first_known(film.segments[0]))


def _nothing_finished(index: int) -> torch.Tensor:
    raise AssertionError(f"a film of one segment has no segment {index + 1} to remember")


def run_digest(run_name: str) -> str:
    """Changes whenever the run's manifest on disk does, so that the host runs the node again."""
    manifest = run_path(runs_root(), run_name) / FILE_NAME
    return fingerprint_value(manifest.read_bytes() if manifest.is_file() else None)


def _summary(film: Film, rendered: int) -> str:
    reused = len(film.segments) - rendered
    counts = (
        f"{film.request.run_name}: {len(film.segments)} segments, {rendered} rendered, "
        f"{reused} reused from disk"
    )
    warnings = (f"Warning, {warning}" for warning in film.warnings)
    return "\n".join((counts, *film.notes, *warnings))


def announce(
    film: Film, node_id: str, segment: Segment, status: str, reason: str = "", step: int = 0
) -> None:
    """Tell the page what becomes of a segment."""
    announce_segment(
        {
            "run": film.request.run_name,
            "node": node_id,
            "segment": segment.number,
            "segments": len(film.segments),
            "status": status,
            "reason": reason,
            "shot": segment.shot_id,
            "prompt": segment.prompt,
            "seed": segment.seed,
            "take": segment.take,
            "step": step,
            "steps": film.sampler.steps,
        }
    )


class FilmRenderer:
    """Samples the segments of one film. Conditioning and blank clips live as long as the run.

    `to_render` are the indices of the segments that are expected to be sampled, `read` gives the
    latent of a finished one.
    """

    def __init__(
        self, film: Film, node_id: str, to_render: frozenset[int], read: ReadLatent
    ) -> None:
        self._film = film
        self._to_render = to_render
        self._node_id = node_id
        self._loras = film.loras.switch(
            film.request.model, film.request.low_noise_model, film.segments
        )
        self._recorder = FilmRecorder(
            film.memory, film.segments, read, self._positive, _latent_size(film)
        )
        self._files = ClipFiles(clip_folder(), film.parameters["vae"], _write_passing)
        self._blanks = BlankClips(film.request.vae, files=self._files)
        self._context = ContextPictures(film)
        self._guides = FilmGuides(
            film, read, self.first_known, self._positive, self._negative, self._files
        )
        self._conditioning: dict[str, Conditioning] = {}
        calls = max(1, film.hierarchy.sampler_calls(to_render))
        self._progress = comfy.utils.ProgressBar(calls * film.sampler.steps)
        self._previewer = latent_preview.get_previewer(
            film.request.model.load_device, film.request.model.get_model_object("latent_format")
        )

    def first_known(self, segment: Segment) -> torch.Tensor | None:
        """What a start image, a keyframe or a start latent gives a segment, b c k h w; encodes
        pictures."""
        request, pixels = self._film.request, self._start_pixels(segment)
        if pixels is not None:
            return start_latent(request.vae, pixels)
        if segment.start == "latent":
            assert request.start_latent is not None
            return request.start_latent["samples"][:, :, -segment.known_latent_frames :].float()
        return None

    def render(self, segment: Segment, known: torch.Tensor | None) -> RenderedSegment:
        latent = self.sample(segment, known)
        preview = preview_jpeg(self._film.request.vae, latent, segment)
        return RenderedSegment(latent=latent, preview=preview)

    def sample(self, segment: Segment, known: torch.Tensor | None) -> torch.Tensor:
        """The segment's latent b c t h w, started from the latent frames `known`."""
        film = self._film
        settings = replace(film.sampler, low_noise_model=self._loras.low_noise_model)
        guide = self._guides.guide(segment, self._loras, settings, self._progress, self._picture)
        done = self._progress.current
        model, settings = self._recorder.attach(segment, self._loras.model, settings)
        positive, negative = self._context.attach(
            segment, self._positive(segment), self._negative(segment)
        )
        end = self._end_pixels(segment)
        latent = sample_segment(
            film.family,
            model,
            self._blanks_of(segment, end),
            positive,
            negative,
            settings,
            film.latent_shape(segment),
            known,
            segment.seed,
            self._step_callback(segment, done),
            self._loras.dress(film.loras.of(segment)),
            None if end is None else end_latent(film.request.vae, end),
            guide,
        )
        self._progress.update_absolute(done + film.sampler.steps)
        return latent

    def dressed(self, segment: Segment) -> Dressed:
        """The model with the segment's LoRAs and its conditionings, for other ways to sample."""
        dress = self._loras.dress(self._film.loras.of(segment))
        plain = self._loras.model, self._positive(segment), self._negative(segment)
        return plain if dress is None else dress(*plain)

    def _blanks_of(self, segment: Segment, end: torch.Tensor | None) -> BlankClips:
        """Clips of a segment that begins or ends with a picture are its own, all others shared."""
        start = self._start_pixels(segment)
        if start is None and end is None:
            return self._blanks
        return BlankClips(self._film.request.vae, start, self._files, end)

    def _start_pixels(self, segment: Segment) -> torch.Tensor | None:
        """The pictures [n, h, w, 3] that a segment begins with, in the film's size."""
        if segment.start == "image":
            assert self._film.request.start_image is not None
            return self._film_pixels(self._film.request.start_image)
        if segment.start_keyframe is not None:
            return self._film_pixels(self._film.keyframes.picture(segment.start_keyframe))
        return None

    def _end_pixels(self, segment: Segment) -> torch.Tensor | None:
        if segment.end_keyframe is None:
            return None
        return self._film_pixels(self._film.keyframes.picture(segment.end_keyframe))

    def _film_pixels(self, pictures: torch.Tensor) -> torch.Tensor:
        return film_pixels(pictures, self._film.request.height, self._film.request.width)

    def report(self, event: SegmentEvent) -> None:
        if event.status == "reused" and self._is_to_render(event.segment):
            self._progress.update(self._film.sampler.steps)  # it came out the same after all
        announce(self._film, self._node_id, event.segment, event.status, event.reason)

    def _positive(self, segment: Segment) -> Conditioning:
        if self._film.request.positive is not None:
            return self._with_vision(self._film.request.positive)
        return self._encoded(segment.prompt, segment)

    def _negative(self, segment: Segment) -> Conditioning:
        request = self._film.request
        if request.negative is not None:
            return self._with_vision(request.negative)
        if request.clip is None:
            return self._positive(segment)
        return self._encoded(self._negative_text(segment), segment)

    def _negative_text(self, segment: Segment) -> str:
        texts = (self._film.request.negative_prompt.strip(), segment.negative.strip())
        return ", ".join(filter(None, texts))

    def _encoded(self, text: str, segment: Segment) -> Conditioning:
        """The conditioning of a text of `segment`; encodes those of the next segments with it."""
        if text not in self._conditioning:
            upcoming = [s for s in self._film.segments[segment.index :] if self._is_to_render(s)]
            texts = dict.fromkeys([text])
            for ahead in upcoming[:PROMPTS_AHEAD]:
                texts |= dict.fromkeys((ahead.prompt, self._negative_text(ahead)))
            self._conditioning = {
                each: self._conditioning.get(each) or self._encode(each) for each in texts
            }
        return self._conditioning[text]

    def _is_to_render(self, segment: Segment) -> bool:
        return segment.index in self._to_render

    def _encode(self, text: str) -> Conditioning:
        clip = self._film.request.clip
        assert clip is not None
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        check_text(self._film.request.model, encoded, "clip")
        return self._with_vision(encoded)

    def _with_vision(self, conditioning: Conditioning) -> Conditioning:
        vision = self._film.request.clip_vision_output
        if vision is None:
            return conditioning
        return with_values(conditioning, {"clip_vision_output": vision})

    def _step_callback(self, segment: Segment, done: int) -> StepCallback:
        """Progress from `done` steps on. Block-wise samplers report a step several times and show
        the denoised latent frames of one block only."""
        middle = (segment.known_latent_frames + segment.latent_frames) // 2

        def callback(step: int, denoised: torch.Tensor, noisy: torch.Tensor, steps: int) -> None:
            picture = self._picture(denoised, min(middle, denoised.shape[2] - 1))
            self._tell(segment, min(step + 1, self._film.sampler.steps), done, picture)

        return callback

    def _picture(self, denoised: torch.Tensor, shown: int) -> Any:
        """One latent frame of what is being made, as core's previewers show it; None without."""
        if self._previewer is None:
            return None
        return self._previewer.decode_latent_to_preview_image(
            "JPEG", denoised[:, :, shown : shown + 1]
        )

    def _tell(self, segment: Segment, step: int, done: int, picture: Any) -> None:
        """A segment has made `step` steps; the film had made `done` when it began."""
        self._progress.update_absolute(done + step, self._progress.total, picture)
        announce(self._film, self._node_id, segment, "running", "", step)


def _latent_size(film: Film) -> tuple[int, int]:
    """Rows and columns of the film's latents."""
    return film.latent_shape(film.segments[0])[3:]


def _shrunk(picture: torch.Tensor) -> torch.Tensor:
    """A latent frame b c h w with at most PREVIEW_CELLS a side."""
    scale = PREVIEW_CELLS / max(picture.shape[-2:])
    if scale >= 1.0:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[-2:]]
    return torch.nn.functional.interpolate(picture, size=size, mode="area")


def preview_jpeg(vae: VAE, latent: torch.Tensor, segment: Segment) -> bytes:
    """A thumbnail of the segment's middle new latent frame, decoded alone."""
    middle = (segment.known_latent_frames + segment.latent_frames) // 2
    return jpeg_bytes(frame_picture(vae, latent[:, :, middle]))


def frame_picture(vae: VAE, latent_frame: torch.Tensor) -> Image.Image:
    """A small picture of one latent frame b c h w, decoded alone."""
    frames = vae.decode(_shrunk(latent_frame).unsqueeze(2))
    frame = frames.reshape(-1, *frames.shape[-3:])[-1].clamp(0.0, 1.0)
    picture = Image.fromarray((frame.cpu() * 255.0).round().to(torch.uint8).numpy())
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return picture


def jpeg_bytes(picture: Image.Image) -> bytes:
    """A picture as the bytes of a thumbnail's file."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=PREVIEW_QUALITY)
    return stream.getvalue()
