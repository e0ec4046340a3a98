"""From shots to segments: what each sampler call starts from, how long it is, and its seed.

A *segment* is one sampler call. A *chain* is a run of segments in which every one but the first
starts from the latent tail of the one before; a cut begins a new chain. A film is its chains, one
after the other, and within a chain the segments without the latent frames they were handed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .frames import FrameGrid
from .keyframe_use import KeyframePlan, with_keyframes
from .storyboard import MAX_FPS, MAX_SECONDS, Shot, Storyboard, video_prompt

Start = Literal["text", "image", "keyframe", "latent", "tail", "memory", "plan"]
Transition = Literal["cut", "continue"]

PromptOf = Callable[[Storyboard, Shot], str]

SEED_RANGE = 1 << 64
"""ComfyUI's seed widgets run from 0 to 2^64 - 1."""

TAKE_STRIDE = 1_000_003
"""Seeds of a later take lie this far from the first take's: a prime beyond any segment count."""

LENGTH_TOLERANCE = 0.15
"""A shot may lose up to this share of a segment before another segment is spent on it (inferred:
a shot of 5 s at 16 fps needs 20 new latent frames where a Wan segment with a tail of 2 gives 19).
"""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One sampler call. Latent frames count the known ones too; `index` is 0-based.

    `recalls` are the indices of the earlier segments that it remembers: None without a memory,
    empty where the memory holds only what it was given. `start_keyframe` and `end_keyframe` are the
    shots whose keyframes are its first and its last frame, `context_keyframes` those whose
    keyframes it sees beside, in order of weight. `guided_by` are the earlier segments that its
    coarse plan looks back at, beside the one that it continues.
    """

    index: int
    shot: int
    shot_id: str
    chain: int
    start: Start
    latent_frames: int
    known_latent_frames: int
    prompt: str
    negative: str
    seed: int
    take: int = 0
    recalls: tuple[int, ...] | None = None
    start_keyframe: int | None = None
    end_keyframe: int | None = None
    context_keyframes: tuple[int, ...] = ()
    guided_by: tuple[int, ...] = ()

    @property
    def looks_back_at(self) -> tuple[int, ...]:
        """Indices of the earlier segments that it is made from beside the one it continues."""
        return tuple(dict.fromkeys((*(self.recalls or ()), *self.guided_by)))

    @property
    def new_latent_frames(self) -> int:
        return self.latent_frames - self.known_latent_frames

    @property
    def number(self) -> int:
        """The number that an artist sees, 1-based."""
        return self.index + 1


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What turns a storyboard into segments.

    `segment_latent_frames` is the longest segment the model makes in one call, the known latent
    frames included. `first_known_latent_frames` is 0 for a start from text, 1 for an image.
    `takes` maps a 0-based segment index to its take. Shots with a keyframe that do not continue the
    one before start from it, whatever `first_start` says. `prompt_of` writes a shot's prompt.
    """

    fps: float
    grid: FrameGrid
    segment_latent_frames: int
    tail_latent_frames: int
    seconds_per_shot: float
    unmarked_shots: Transition
    seed: int
    first_start: Start
    first_known_latent_frames: int
    takes: Mapping[int, int] = field(default_factory=dict)
    keyframes: KeyframePlan = KeyframePlan()
    prompt_of: PromptOf = video_prompt

    def __post_init__(self) -> None:
        _require_within("fps", self.fps, MAX_FPS)
        _require_within("seconds per shot", self.seconds_per_shot, MAX_SECONDS)
        if self.tail_latent_frames < 1:
            raise ValueError(f"tail latent frames must be 1 or more, got {self.tail_latent_frames}")
        longest = max(self.tail_latent_frames, self.first_known_latent_frames)
        if self.segment_latent_frames <= longest:
            raise ValueError(
                f"a segment must be longer than the {longest} latent frames it is handed, got "
                f"{self.segment_latent_frames} latent frames "
                f"({self.grid.frames(self.segment_latent_frames)} frames)"
            )
        if not 0 <= self.seed < SEED_RANGE:
            raise ValueError(f"seed must be 0 to {SEED_RANGE - 1}, got {self.seed}")


def _require_within(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise ValueError(f"{name} must be above 0 and at most {most:g}, got {value}")


def split_evenly(total: int, longest: int) -> tuple[int, ...]:
    """Split `total` new latent frames into parts of at most `longest`, as even as can be.

    A remainder within LENGTH_TOLERANCE of a part is dropped rather than given its own segment.
    """
    parts = max(1, math.ceil(total / longest - LENGTH_TOLERANCE))
    kept = min(total, parts * longest)
    return tuple((kept * (i + 1)) // parts - (kept * i) // parts for i in range(parts))


def plan_segments(storyboard: Storyboard, settings: FilmSettings) -> tuple[Segment, ...]:
    """Decide every segment of a film before anything is sampled.

    Raises ValueError for takes of segments that do not exist.
    """
    segments: list[Segment] = []
    chain = -1
    for shot_index, shot in enumerate(storyboard.shots):
        continues = _continues(shot, shot_index, settings.unmarked_shots)
        for part, length in enumerate(_shot_parts(shot, continues, shot_index, settings)):
            start, known = _start(shot_index, part, continues, settings)
            if start == "tail":
                known = min(known, segments[-1].latent_frames)
            else:
                chain += 1
            index = len(segments)
            take = settings.takes.get(index, 0)
            segments.append(
                Segment(
                    index=index,
                    shot=shot_index,
                    shot_id=shot.id,
                    chain=chain,
                    start=start,
                    latent_frames=known + length,
                    known_latent_frames=known,
                    prompt=settings.prompt_of(storyboard, shot),
                    negative=shot.negative,
                    seed=_seed(shot, index, part, take, settings.seed),
                    take=take,
                )
            )
    surplus = sorted(index + 1 for index in settings.takes if index >= len(segments))
    if surplus:
        raise ValueError(f"retakes name segments 1 to {len(segments)} only, got {surplus[0]}")
    return with_keyframes(segments, storyboard, settings.keyframes)


def _continues(shot: Shot, shot_index: int, unmarked: Transition) -> bool:
    return shot_index > 0 and (shot.transition or unmarked) == "continue"


def _start(
    shot_index: int, part: int, continues: bool, settings: FilmSettings
) -> tuple[Start, int]:
    if part > 0 or continues:
        return "tail", settings.tail_latent_frames
    if shot_index in settings.keyframes.shots:
        return "keyframe", 1
    if shot_index == 0:
        return settings.first_start, settings.first_known_latent_frames
    return "text", 0


def _shot_parts(
    shot: Shot, continues: bool, shot_index: int, settings: FilmSettings
) -> tuple[int, ...]:
    """New latent frames of each segment of a shot."""
    seconds = settings.seconds_per_shot if shot.seconds is None else shot.seconds
    _require_within(f"seconds of shot {shot.id}", seconds, MAX_SECONDS)
    _, first_known = _start(shot_index, 0, continues, settings)
    longest = settings.segment_latent_frames - max(first_known, settings.tail_latent_frames)
    total = settings.grid.new_latent_frames(seconds, settings.fps)
    room = settings.segment_latent_frames - first_known
    parts = split_evenly(total, longest)
    return parts if total > room and len(parts) > 1 else (min(total, room),)


def _seed(shot: Shot, index: int, part: int, take: int, seed: int) -> int:
    """A new seed for every segment (seed + index), or from the shot's own seed on."""
    base = seed + index if shot.seed is None else shot.seed + part
    return (base + take * TAKE_STRIDE) % SEED_RANGE


def parse_takes(text: str) -> dict[int, int]:
    """Read the retakes widget, "4:1, 7:2" (segment 4 in its second take) to {3: 1, 6: 2}."""
    takes: dict[int, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,6})\s*:\s*(\d{1,6})", entry)
        if match is None or int(match[1]) < 1:
            raise ValueError(f"retakes must read like '4:1, 7:2' (segment:take), got '{entry}'")
        takes[int(match[1]) - 1] = int(match[2])
    return takes


def latent_frames_per_chain(segments: Sequence[Segment]) -> tuple[int, ...]:
    """Latent frames of each chain's film: its segments without what they were handed by a tail."""
    lengths: dict[int, int] = {}
    for segment in segments:
        handed = segment.known_latent_frames if segment.start == "tail" else 0
        lengths[segment.chain] = lengths.get(segment.chain, 0) + segment.latent_frames - handed
    return tuple(lengths[chain] for chain in sorted(lengths))


def film_frames(segments: Sequence[Segment], grid: FrameGrid) -> int:
    """Frames of the finished film."""
    return sum(grid.frames(length) for length in latent_frames_per_chain(segments))
