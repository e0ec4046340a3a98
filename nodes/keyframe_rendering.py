"""Makes the keyframes of a planned story: recall, arrange, sample, decode, keep."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.utils
import latent_preview
import torch
from PIL import Image

from ..adapters.family import Conditioning, with_values
from ..adapters.fingerprint import fingerprint_value
from ..adapters.image_sampling import as_frames, as_model_latents, sample_keyframes
from ..adapters.sampling import StepCallback
from ..adapters.text import check_text
from ..memory.retrieval import Ranked
from ..memory.statistics import latent_statistics
from ..planning.keyframe_prompts import Reference, keyframe_prompt
from ..planning.keyframes import KeyframeSegment, decide, together
from ..runs.contact_sheet import contact_sheet
from ..runs.folder import RunFolder, read_plan
from ..runs.planned import RunPlan
from ..runs.states import SegmentState
from .events import announce_segment
from .keyframe_plan import Story
from .keyframe_report import ShotReport, said_of, story_report
from .keyframe_value import Keyframes
from .keyframe_ways import REMEMBERED, Arranged, Drawn, Source
from .recall_report import LeftOut
from .recalling import reference_file
from .rendering import PREVIEW_QUALITY, PREVIEW_SIDE, SHOWN_STATUS, runs_root

ENCODED_TEXTS = 32
"""Conditionings kept while a story is made: a UMT5 conditioning of 512 tokens is 8 MB (our
choice)."""

UNDECIDED = "what it recalls is decided when its turn comes; it is reused if that is as before"


@dataclass(frozen=True, kw_only=True)
class RenderedStory:
    """`sheet` [1, height, width, 3] in 0..1; `report` in words."""

    keyframes: Keyframes
    sheet: torch.Tensor
    report: str


def describe_story(story: Story, node_id: str) -> str:
    """What queueing the story would make and why, without sampling or writing anything."""
    maker = StoryMaker(story, node_id)
    plan = maker.plan_ahead()
    for state in plan.states():
        segment = maker.segments[state.index]
        reason = state.reason if segment.decided else UNDECIDED
        status = SHOWN_STATUS.get(state.status, state.status) if segment.decided else "waiting"
        maker.announce(segment, status, reason)
    return maker.report(plan.states())


def render_story(story: Story, node_id: str) -> RenderedStory:
    """Make what the run folder lacks; finished keyframes are read from disk."""
    maker = StoryMaker(story, node_id)
    ahead = maker.plan_ahead()
    name = story.request.run_name
    with RunFolder.open(runs_root(), name, story.parameters, ahead.segments) as folder:
        maker.read = folder.read_segment
        for step in story.steps:
            maker.make(folder, step)
        pictures = maker.take_pictures()
        run = folder.run
        report = maker.report(folder.state())
    keyframes = Keyframes(
        storyboard=story.storyboard,
        shot_ids=tuple(shot.id for shot in story.storyboard.shots),
        images=pictures,
        run_name=name,
    )
    return RenderedStory(keyframes=keyframes, sheet=contact_sheet(run), report=report)


class StoryMaker:
    """Decides, draws and keeps the keyframes of one story. Lives as long as one queue.

    `segments` are decided one step after the other; `read` gives the latent of a finished one.
    """

    def __init__(self, story: Story, node_id: str) -> None:
        self.segments = list(story.segments)
        self.read: Callable[[int], torch.Tensor] = _nothing_finished
        self._story, self._node_id = story, node_id
        self._capabilities = story.family.capabilities(story.request.model)
        self._arranged: dict[int, Arranged] = {}
        self._drifted: dict[int, tuple[LeftOut, ...]] = {}
        self._pictures: dict[int, torch.Tensor] = {}
        self._encoded: dict[str, Conditioning] = {}
        self._seen: set[int] = set()
        self._rendered: set[int] = set()
        self._digests = {
            name: fingerprint_value(picture) for name, picture in story.references.pictures.items()
        }
        self._loras = story.loras.switch(
            story.request.model, story.request.low_noise_model, story.segments
        )
        self._progress = comfy.utils.ProgressBar(len(story.segments) * story.sampler.steps)
        model = story.request.model
        self._previewer = latent_preview.get_previewer(
            model.load_device, model.get_model_object("latent_format")
        )

    def plan_ahead(self) -> RunPlan:
        """The run as it is on disk, its segments decided as far as that goes without making one:
        to the first that is to be made where choices look at pictures, else to the end."""
        story = self._story
        plan = read_plan(runs_root(), story.request.run_name, story.parameters, story.segments)
        self.read = plan.latent
        for step in story.steps:
            for segment in self._decide(step):
                plan.replan(segment)
            states = plan.states()
            if all(not states[index].needs_render for index in step):
                self._show_to_recaller(step)
            elif story.recaller.needs_pictures:
                break
        return plan

    def make(self, folder: RunFolder, step: Sequence[int]) -> None:
        """Bring the keyframes of one step to disk. Whatever interrupts it, earlier ones stay."""
        if not self.segments[step[0]].decided:
            for segment in self._decide(step):
                folder.replan(segment)
        states = folder.state()
        missing = [index for index in step if states[index].needs_render]
        steps_before = self._progress.current
        if missing:
            self._make_missing(folder, step, missing, states)
        else:
            for index in step:
                self.announce(self.segments[index], "reused")
        done = steps_before + len(step) * self._story.sampler.steps
        self._progress.update_absolute(done, self._progress.total)
        self._show_to_recaller(step)

    def take_pictures(self) -> torch.Tensor:
        """All keyframes [n, height, width, 3]; each is let go here as it is taken, so that a long
        story is not held twice."""
        first = self.finished_picture(0)
        taken = first.new_empty((len(self.segments), *first.shape[1:]))
        for place in range(len(self.segments)):
            taken[place] = self.finished_picture(place)[0]
            self._pictures.pop(place)
        return taken

    def finished_picture(self, index: int) -> torch.Tensor:
        """The picture [1, h, w, 3] of a finished keyframe, decoded once."""
        if index not in self._pictures:
            self._pictures[index] = self._decoded(self.read(index))
        return self._pictures[index]

    def picture(self, source: Source) -> torch.Tensor:
        if source.shot is not None:
            return self.finished_picture(source.shot)
        return self._story.references.pictures[source.name]

    def latent(self, source: Source) -> torch.Tensor | None:
        return None if source.shot is None else self.read(source.shot)

    def encode(self, text: str, pictures: Sequence[torch.Tensor]) -> Conditioning:
        """The conditioning of a text, guidance included; those without pictures are kept."""
        request, family = self._story.request, self._story.family
        if not pictures and text in self._encoded:
            return self._encoded[text]
        encoded = family.encode_prompt(request.clip, text, pictures)
        check_text(request.model, encoded, "clip")
        if request.guidance > 0.0:
            encoded = with_values(encoded, {"guidance": request.guidance})
        if not pictures:
            while len(self._encoded) >= ENCODED_TEXTS:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[text] = encoded
        return encoded

    def report(self, states: Sequence[SegmentState]) -> str:
        """Every shot with what it recalled and why, in words."""
        shots = [
            ShotReport(
                segment=segment,
                arranged=self._arranged.get(segment.index),
                drifted=self._drifted.get(segment.index, ()),
                outcome=self._outcome(segment, states[segment.index]),
            )
            for segment in self.segments
        ]
        return story_report(self._story, shots, len(self._rendered))

    def _outcome(self, segment: KeyframeSegment, state: SegmentState) -> str:
        if segment.index in self._rendered:
            return "made now"
        if not segment.decided:
            return f"to make, {UNDECIDED}"
        return f"to make, {state.reason}" if state.needs_render else "on disk"

    def _decide(self, step: Sequence[int]) -> tuple[KeyframeSegment, ...]:
        """What the shots of a step recall, see and say."""
        chosen = {index: self._chosen(index, step[0]) for index in step}
        best_first: dict[tuple[int | None, str], Source] = {}
        for rank in range(max(map(len, chosen.values()))):
            for ranked in chosen.values():
                if rank < len(ranked):
                    source = self._source(ranked[rank])
                    best_first.setdefault((source.shot, source.name), source)
        arranged = self._story.way.arrange(tuple(best_first.values())[: self._story.way.most])
        decided = together([self._decided(index, arranged) for index in step])
        for segment in decided:
            self.segments[segment.index] = segment
            self._arranged[segment.index] = arranged
        return decided

    def _chosen(self, index: int, before: int) -> tuple[Ranked, ...]:
        story, available = self._story, range(before)
        if not story.way.most or not before and not story.references.pictures:
            return ()
        self._drifted[index] = story.recaller.drifted(available)
        return story.recaller.choose(index, story.way.most, available)

    def _source(self, ranked: Ranked) -> Source:
        story, candidate = self._story, ranked.candidate
        shows = Reference(characters=candidate.characters, location=candidate.location)
        if candidate.kind == "shot":
            shot = next(s for s in self.segments if s.shot_id == candidate.id)
            height, width = story.request.height, story.request.width
            return Source(
                shot=shot.index,
                name=candidate.id,
                digest="",
                height=height,
                width=width,
                text=shot.prompt,
                shows=shows,
                why=said_of(ranked),
            )
        name = reference_file(candidate.id)
        height, width = story.references.pictures[name].shape[1:3]
        return Source(
            shot=None,
            name=name,
            digest=self._digests[name],
            height=height,
            width=width,
            text=candidate.caption,
            shows=shows,
            why=said_of(ranked),
        )

    def _decided(self, index: int, arranged: Arranged) -> KeyframeSegment:
        story = self._story
        shot = story.storyboard.shots[index]
        prompt = keyframe_prompt(
            story.storyboard, shot, self._capabilities.template, story.way.spoken(arranged)
        )
        strength = self._strength(index)
        way = story.way.name if strength == 1.0 else f"{story.way.name} {strength!r}"
        return decide(story.segments[index], prompt, arranged.shown, way, story.way.remembers)

    def _strength(self, index: int) -> float:
        """A shot's own strength, where references are a memory; that has 0 to 1."""
        own = self._story.storyboard.shots[index].strength
        if own is None or self._story.way.name != REMEMBERED:
            return 1.0
        return min(1.0, own)

    def _show_to_recaller(self, step: Sequence[int]) -> None:
        for index in step:
            if self._story.recaller.needs_pictures and index not in self._seen:
                self._story.recaller.see(index, self.finished_picture(index))
                self._seen.add(index)

    def _make_missing(
        self,
        folder: RunFolder,
        step: Sequence[int],
        missing: Sequence[int],
        states: Sequence[SegmentState],
    ) -> None:
        for index in missing:
            self.announce(self.segments[index], "running", states[index].reason)
        try:
            started = time.monotonic()
            latents = self._sample([self.segments[index] for index in step])
            seconds = (time.monotonic() - started) / len(step)
            for index in missing:
                self._keep(folder, index, latents[step.index(index)], seconds)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            for index in missing:
                self.announce(self.segments[index], "failed", reason)
            raise
        for index in missing:
            self.announce(self.segments[index], "done")

    def _keep(self, folder: RunFolder, index: int, latent: torch.Tensor, seconds: float) -> None:
        self._pictures[index] = self._decoded(latent)
        preview = _thumbnail(self._pictures[index])
        folder.write_segment(index, latent, latent_statistics(latent, 0), seconds, _jpeg(preview))
        self._rendered.add(index)
        shown = ("JPEG", preview, PREVIEW_SIDE)
        self._progress.update_absolute(self._progress.current, self._progress.total, shown)

    def _sample(self, segments: Sequence[KeyframeSegment]) -> list[torch.Tensor]:
        """The latents 1 c 1 h w of the shots of one step."""
        story, first = self._story, segments[0]
        guided = not math.isclose(story.request.cfg, 1.0)
        drawn = Drawn(
            model=self._loras.model,
            prompts=tuple(segment.prompt for segment in segments),
            negatives=tuple(map(self._negative, segments)) if guided else None,
            arranged=self._arranged[first.index],
            strength=self._strength(first.index),
        )
        inputs = story.way.inputs(drawn, self)
        settings = story.sampler
        if self._loras.low_noise_model is not None:
            other = story.way.inputs(replace(drawn, model=self._loras.low_noise_model), self)
            settings = replace(settings, low_noise_model=other.model)
        latents = sample_keyframes(
            inputs,
            settings,
            story.shape,
            [segment.seed for segment in segments],
            self._step_callback(segments),
            self._loras.dress(story.loras.of(first)),
        )
        return list(as_frames(latents).split(1))

    def _negative(self, segment: KeyframeSegment) -> str:
        texts = (self._story.request.negative_prompt.strip(), segment.negative.strip())
        return ", ".join(filter(None, texts))

    def _decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """The picture of a latent 1 c 1 h w."""
        made = self._story.request.vae.decode(as_model_latents(latent, self._story.shape))
        frame = made.reshape(-1, *made.shape[-3:])[-1:, ..., :3]
        return frame.clamp(0.0, 1.0).float().cpu()

    def _step_callback(self, segments: Sequence[KeyframeSegment]) -> StepCallback:
        before, count = self._progress.current, self._story.sampler.steps

        def callback(step: int, denoised: torch.Tensor, noisy: torch.Tensor, steps: int) -> None:
            picture = None
            if self._previewer is not None:
                picture = self._previewer.decode_latent_to_preview_image("JPEG", denoised[:1])
            number = min(step + 1, count)
            done = before + number * len(segments)
            self._progress.update_absolute(done, self._progress.total, picture)
            for segment in segments:
                self.announce(segment, "running", step=number)

        return callback

    def announce(
        self, segment: KeyframeSegment, status: str, reason: str = "", step: int = 0
    ) -> None:
        """Tell the page what becomes of a keyframe."""
        announce_segment(
            {
                "run": self._story.request.run_name,
                "node": self._node_id,
                "segment": segment.number,
                "segments": len(self.segments),
                "status": status,
                "reason": reason,
                "shot": segment.shot_id,
                "prompt": segment.prompt,
                "seed": segment.seed,
                "take": segment.take,
                "step": step,
                "steps": self._story.sampler.steps,
            }
        )


def _nothing_finished(index: int) -> torch.Tensor:
    raise AssertionError(f"keyframe {index + 1} is asked for before the run is read")


def _thumbnail(picture: torch.Tensor) -> Image.Image:
    small = Image.fromarray((picture[0] * 255.0).round().to(torch.uint8).numpy())
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return small


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=PREVIEW_QUALITY)
    return stream.getvalue()
