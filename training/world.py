"""The procedural world on which the pack's small models are trained and measured.

A *place* is a ring panorama of 128 x 64 px: eight wall panels before a sky and a floor. A camera
window of 64 px stands at one of 16 *poses* (8 px apart) and moves by 0 or 2 px per frame, constant
inside a group of four frames. So one latent frame of a Wan VAE (four video frames, the first latent
frame holds one) is a move of exactly 0 or 8 px, which is one latent cell. Characters stand at a
fixed place of the picture. What text says and what it does not say is separated: a caption names
the place, the character, the position and the camera, never a look, so a look can only be carried
by memory. Every frame has an exact ground truth.

Measured reason for large structure and absolute poses: shared design notes, "Scaled-down
reproduction" (small objects are not learned in minutes; camera poses in words are).

Everything is deterministic in (seed, split). Training and held-out seeds are drawn in separate
domains.
"""

import colorsys
from dataclasses import dataclass
from enum import Enum

import numpy as np

FRAME_SIZE = 64  # px, height and width of a frame
RING_WIDTH = 128  # px, one full turn of the camera
NUM_POSES = 16  # camera stations on the ring
POSE_STEP = RING_WIDTH // NUM_POSES  # 8 px: one cell of a latent with spatial stride 8
FRAMES_PER_LATENT = (
    4  # temporal stride of the Wan VAE; the first latent frame holds one video frame
)
FRAMES_PER_SECOND = 8
MAX_TURN = 4  # largest ring distance of one shot, in poses: half a frame leaves the picture
HOLD_LATENT_FRAMES = 2  # the camera stands still in the first two latent frames of a window
PANEL_WIDTH = 16  # px
PANEL_TOP_ROWS = (8, 24)  # first row of a panel, half-open
FLOOR_ROW = 47  # first row of the floor
FIGURE_SIZE = (32, 16)  # px, height and width of a character
FIGURE_TOP = 28  # row of the top of a standing figure

PLACE_WORDS = (
    "harbour",
    "kitchen",
    "garden",
    "station",
    "library",
    "desert",
    "theatre",
    "workshop",
)
CHARACTER_NAMES = ("Mara", "Otis", "Juno", "Pell", "Sable", "Wren")
POSITIONS = {
    "left": 8,
    "centre": 24,
    "right": 40,
}  # px, left edge of the figure, on the latent grid
SHEET_POSITION = "centre"  # of a figure on its character sheet

Colour = tuple[float, float, float]  # red, green, blue in 0..1


class Split(str, Enum):
    """Which domain a seed is drawn in. The value is hashed into the generator."""

    TRAINING = "training"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Panel:
    """One wall panel. `stripe_period` in px, `stripe_phase` in radians."""

    colour: Colour
    top: int
    stripe_amplitude: float
    stripe_period: float
    stripe_phase: float
    upright: bool


@dataclass(frozen=True)
class Place:
    """A ring panorama: its word is known to the text, the rest only to who has seen it."""

    word: str
    sky: Colour
    floor: Colour
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Character:
    """A figure. `variant` 0 plain, 1 with a wide hat, 2 with a long coat, 3 slim."""

    name: str
    head: Colour
    body: Colour
    legs: Colour
    variant: int


@dataclass(frozen=True)
class Shot:
    """One clip: indices into the story's places and characters, camera poses and length."""

    place: int
    character: int | None
    position: str | None
    from_pose: int
    to_pose: int
    latent_frames: int


@dataclass(frozen=True)
class Story:
    """Places and characters that keep their look, and the shots between cuts."""

    seed: int
    split: Split
    places: tuple[Place, ...]
    characters: tuple[Character, ...]
    shots: tuple[Shot, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """The text of every shot."""
        return tuple(shot_caption(self, shot) for shot in self.shots)


@dataclass(frozen=True)
class Segment:
    """A window of a long take: `start` is its first latent frame in the take."""

    start: int
    latent_frames: int
    from_pose: int
    to_pose: int
    caption: str


@dataclass(frozen=True)
class Take:
    """One uncut camera path. `poses` holds the pose at the end of every latent frame."""

    place: Place
    character: Character | None
    position: str | None
    poses: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """The text of every segment."""
        return tuple(segment.caption for segment in self.segments)

    @property
    def num_frames(self) -> int:
        """Number of video frames, 4n + 1."""
        return frames_of_latents(len(self.poses))


def frames_of_latents(latent_frames: int) -> int:
    """Number of video frames of a clip of `latent_frames` latent frames (4n + 1)."""
    return FRAMES_PER_LATENT * (latent_frames - 1) + 1


def refuse_held_out(split: Split) -> Split:
    """Return `split` when it may be trained on. Raises ValueError for the held-out domain."""
    if Split(split) is not Split.TRAINING:
        raise ValueError(f"training reads seeds of the split 'training' only, got {split!r}")
    return Split(split)


def seeded_generator(seed: int, split: Split, purpose: str) -> np.random.Generator:
    """A generator of its own for every (seed, split, purpose); the domains never meet."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    words = [int.from_bytes(text.encode(), "little") for text in (Split(split).value, purpose)]
    return np.random.default_rng(np.random.SeedSequence([*words, seed]))


def signed_turn(from_pose: int, to_pose: int) -> int:
    """Shortest way on the ring in poses, -8..7; positive turns the camera to the right."""
    half = NUM_POSES // 2
    return (to_pose - from_pose + half) % NUM_POSES - half


def poses_by_rule(from_pose: int, to_pose: int, latent_frames: int) -> tuple[int, ...]:
    """The timing rule: two latent frames at `from_pose`, then one pose per latent frame, then hold.

    Raises ValueError when the turn is longer than MAX_TURN.
    """
    turn = signed_turn(from_pose, to_pose)
    if abs(turn) > MAX_TURN:
        raise ValueError(f"a shot turns at most {MAX_TURN} poses, got {from_pose} to {to_pose}")
    moved = (min(max(0, i - HOLD_LATENT_FRAMES + 1), abs(turn)) for i in range(latent_frames))
    return tuple((from_pose + (steps if turn > 0 else -steps)) % NUM_POSES for steps in moved)


def caption_of(
    place_word: str, character: str | None, position: str | None, from_pose: int, to_pose: int
) -> str:
    """The caption grammar, for example `harbour, Mara left, camera 3 to 7`."""
    who = f"{character} {position}" if character else "empty"
    return f"{place_word}, {who}, camera {from_pose} to {to_pose}"


def shot_caption(story: Story, shot: Shot) -> str:
    """Caption of a shot of `story`."""
    name = None if shot.character is None else story.characters[shot.character].name
    word = story.places[shot.place].word
    return caption_of(word, name, shot.position, shot.from_pose, shot.to_pose)


def sheet_caption(character: Character) -> str:
    """The caption of a character sheet: the name and nothing else."""
    return character.name


def script_line(caption: str, frames: int) -> str:
    """One line of a segment script: `[2s, continue] caption`, seconds of `frames` new frames."""
    return f"[{frames / FRAMES_PER_SECOND:g}s, continue] {caption}"


# --- drawing looks
# --------------------------------------------------------------------------------------------------


def _colour(generator: np.random.Generator, hue: float, spread: float) -> tuple[float, float]:
    jittered = (hue + generator.uniform(-spread, spread)) % 1.0
    return jittered, generator.uniform(0.0, 1.0)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def draw_place(word: str, generator: np.random.Generator) -> Place:
    """A place of this word: the word fixes the hue family of sky and floor, the rest is drawn."""
    index = PLACE_WORDS.index(word)
    count = len(PLACE_WORDS)
    sky_hue, sky_depth = _colour(generator, index / count, 0.03)
    floor_hue, floor_depth = _colour(generator, (3 * index + 4) % count / count, 0.03)
    panels = tuple(
        Panel(
            colour=_hsv(
                generator.uniform(), generator.uniform(0.4, 0.9), generator.uniform(0.35, 0.95)
            ),
            top=int(generator.integers(*PANEL_TOP_ROWS)),
            stripe_amplitude=generator.uniform(0.0, 0.08),
            stripe_period=float(generator.choice([8.0, 16.0])),
            stripe_phase=generator.uniform(0.0, 2 * np.pi),
            upright=bool(generator.integers(2)),
        )
        for _ in range(RING_WIDTH // PANEL_WIDTH)
    )
    sky = _hsv(sky_hue, 0.25 + 0.3 * sky_depth, 0.9)
    floor = _hsv(floor_hue, 0.5, 0.3 + 0.25 * floor_depth)
    return Place(word, sky, floor, panels)


def draw_character(name: str, generator: np.random.Generator) -> Character:
    """A character of this name; nothing of the look follows from the name."""
    head, body, legs = (
        _hsv(generator.uniform(), generator.uniform(0.3, 1.0), value)
        for value in (
            generator.uniform(0.6, 1.0),
            generator.uniform(0.4, 1.0),
            generator.uniform(0.1, 0.5),
        )
    )
    return Character(name, head, body, legs, int(generator.integers(4)))


def _turn(generator: np.random.Generator, smallest: int) -> int:
    return int(generator.integers(smallest, MAX_TURN + 1)) * int(generator.choice([-1, 1]))


def story(
    seed: int, split: Split = Split.HELD_OUT, num_shots: int = 6, latent_frames: int = 6
) -> Story:
    """A story with cuts: two or three places, two characters, the first returns after a gap."""
    if num_shots < 4:
        raise ValueError(f"a story has at least 4 shots, got {num_shots}")
    generator = seeded_generator(seed, split, "story")
    words = generator.permutation(PLACE_WORDS)[: int(generator.integers(2, 4))]
    names = generator.permutation(CHARACTER_NAMES)[:2]
    places = tuple(draw_place(str(word), generator) for word in words)
    characters = tuple(draw_character(str(name), generator) for name in names)
    shots = []
    for index in range(num_shots):
        # lead, other, nobody, lead in the first place again: every story has a return
        place = (0, 1, len(places) - 1, 0)[index % 4]
        character = (0, 1, None, 0)[index % 4]
        position = None if character is None else str(generator.choice(list(POSITIONS)))
        start = int(generator.integers(NUM_POSES)) if index % 4 != 3 else shots[index - 3].from_pose
        end = (start + _turn(generator, 0)) % NUM_POSES
        shots.append(Shot(place, character, position, start, end, latent_frames))
    return Story(seed, Split(split), places, characters, tuple(shots))


def shot_take(owner: Story, shot: Shot) -> Take:
    """The shot as a camera path of its own."""
    segment = Segment(
        0, shot.latent_frames, shot.from_pose, shot.to_pose, shot_caption(owner, shot)
    )
    character = None if shot.character is None else owner.characters[shot.character]
    poses = poses_by_rule(shot.from_pose, shot.to_pose, shot.latent_frames)
    return Take(owner.places[shot.place], character, shot.position, poses, (segment,))


def take_from_turns(
    place: Place,
    character: Character | None,
    position: str | None,
    start_pose: int,
    turns: tuple[int, ...],
    segment_latent_frames: tuple[int, ...],
    tail_latent_frames: int,
) -> Take:
    """Chain segments: each starts in the last `tail_latent_frames` latent frames before it.

    A segment that ends before its camera has arrived leaves the camera where it is, and the next
    one starts there.
    """
    poses: list[int] = []
    segments = []
    for turn, latent_frames in zip(turns, segment_latent_frames, strict=True):
        from_pose = poses[-1] if poses else start_pose
        to_pose = (from_pose + turn) % NUM_POSES
        start = len(poses) - tail_latent_frames if poses else 0
        name = None if character is None else character.name
        caption = caption_of(place.word, name, position, from_pose, to_pose)
        segments.append(Segment(start, latent_frames, from_pose, to_pose, caption))
        known = tail_latent_frames if poses else 0
        poses.extend(poses_by_rule(from_pose, to_pose, latent_frames)[known:])
    return Take(place, character, position, tuple(poses), tuple(segments))


def long_take(
    seed: int,
    num_segments: int,
    segment_latent_frames: int = 6,
    tail_latent_frames: int = 2,
    split: Split = Split.HELD_OUT,
) -> Take:
    """One place, one camera path that pans away and comes back: places are seen again.

    The first segment always pans 3 or 4 poses. Every second segment turns back over what was seen.
    """
    if tail_latent_frames != HOLD_LATENT_FRAMES:
        raise ValueError(
            f"the timing rule needs a tail of {HOLD_LATENT_FRAMES} latent frames,"
            f" got {tail_latent_frames}"
        )
    generator = seeded_generator(seed, split, "long take")
    place = draw_place(str(generator.choice(PLACE_WORDS)), generator)
    has_character = generator.uniform() < 0.7
    character = (
        draw_character(str(generator.choice(CHARACTER_NAMES)), generator) if has_character else None
    )
    position = str(generator.choice(list(POSITIONS))) if has_character else None
    turns = [_turn(generator, 3)]
    while len(turns) < num_segments:
        back = -int(np.sign(turns[-1])) * int(generator.integers(3, MAX_TURN + 1))
        turns.append(back if generator.uniform() < 0.75 else -back)
    if num_segments > 1:
        turns[1] = -turns[0]
    lengths = (segment_latent_frames,) * num_segments
    start_pose = int(generator.integers(NUM_POSES))
    return take_from_turns(
        place, character, position, start_pose, tuple(turns), lengths, tail_latent_frames
    )


def random_take(index: int, latent_frames: int, split: Split = Split.TRAINING) -> Take:
    """A take with a random camera path, without captions: the material of the VAE training."""
    generator = seeded_generator(index, split, "random take")
    place = draw_place(str(generator.choice(PLACE_WORDS)), generator)
    has_character = generator.uniform() < 0.7
    character = (
        draw_character(str(generator.choice(CHARACTER_NAMES)), generator) if has_character else None
    )
    position = str(generator.choice(list(POSITIONS))) if has_character else None
    moves = generator.choice([-1, 0, 1], size=latent_frames - 1, p=[0.36, 0.28, 0.36])
    start = int(generator.integers(NUM_POSES))
    poses = (start + np.concatenate([[0], np.cumsum(moves)])) % NUM_POSES
    return Take(place, character, position, tuple(int(pose) for pose in poses), ())
