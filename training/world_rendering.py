"""Pixels of the procedural world: panoramas, figures and camera windows, uint8 `t h w c`."""

import numpy as np
from numpy.typing import NDArray

from .world import (
    FIGURE_SIZE,
    FIGURE_TOP,
    FLOOR_ROW,
    FRAME_SIZE,
    FRAMES_PER_LATENT,
    PANEL_WIDTH,
    POSE_STEP,
    POSITIONS,
    RING_WIDTH,
    SHEET_POSITION,
    Character,
    Place,
    Shot,
    Story,
    Take,
    shot_take,
    signed_turn,
)

Frames = NDArray[np.uint8]  # t h w c
SKY_FADE = 0.12  # how much darker the top of the sky is than the horizon
SHEET_GREY = 0.75  # of the plain ground of a character sheet
FLOOR_BAND = 0.05  # amplitude of the one soft light band that goes round the floor


def panorama(place: Place) -> NDArray[np.float32]:
    """The whole ring of a place, `h w c` in 0..1 with w = 128."""
    rows = np.arange(FRAME_SIZE, dtype=np.float32)[:, None]
    columns = np.arange(RING_WIDTH, dtype=np.float32)[None, :]
    fade = 1.0 - SKY_FADE * (1.0 - np.minimum(rows / FLOOR_ROW, 1.0)) + 0.0 * columns
    picture = fade[..., None] * np.asarray(place.sky, dtype=np.float32)
    band = FLOOR_BAND * np.sin(2 * np.pi * columns / RING_WIDTH * 2) * np.ones_like(rows)
    floor = np.asarray(place.floor, dtype=np.float32) + band[..., None]
    picture[FLOOR_ROW:] = floor[FLOOR_ROW:]
    for index, panel in enumerate(place.panels):
        left = index * PANEL_WIDTH
        local = np.arange(PANEL_WIDTH, dtype=np.float32)[None, :] + 0.0 * rows
        along = local if panel.upright else rows + 0.0 * local
        wave = panel.stripe_amplitude * np.sin(
            2 * np.pi * along / panel.stripe_period + panel.stripe_phase
        )
        face = np.asarray(panel.colour, dtype=np.float32) + wave[..., None]
        area = slice(panel.top, FLOOR_ROW)
        picture[area, left : left + PANEL_WIDTH] = face[area]
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def figure(character: Character) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Colours `h w c` and mask `h w` of a figure of 32 x 16 px."""
    height, width = FIGURE_SIZE
    colours = np.zeros((height, width, 3), dtype=np.float32)
    mask = np.zeros((height, width), dtype=bool)

    def paint(
        top: int, bottom: int, left: int, right: int, colour: tuple[float, float, float]
    ) -> None:
        colours[top:bottom, left:right] = colour
        mask[top:bottom, left:right] = True

    slim = 2 if character.variant == 3 else 0
    coat_end = 28 if character.variant == 2 else 21
    paint(21, 32, 3 + slim, 13 - slim, character.legs)
    paint(10, coat_end, 1 + slim, 15 - slim, character.body)
    paint(2, 10, 4, 12, character.head)
    if character.variant == 1:
        paint(0, 4, 1, 15, character.head)
    return colours, mask


def camera_offsets(take: Take) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Left edge of the camera window on the ring in px and whether the camera moves, both `t`."""
    offsets, moving = [take.poses[0] * POSE_STEP], [False]
    for before, after in zip(take.poses, take.poses[1:], strict=False):
        step = signed_turn(before, after) * POSE_STEP // FRAMES_PER_LATENT
        offsets += [before * POSE_STEP + step * frame for frame in range(1, FRAMES_PER_LATENT + 1)]
        moving += [step != 0] * FRAMES_PER_LATENT
    return np.asarray(offsets) % RING_WIDTH, np.asarray(moving)


def bob(frame: int) -> int:
    """Height in px of a walking figure above its row: 1 in the middle of four frames."""
    return 1 if frame % FRAMES_PER_LATENT in (2, 3) else 0


def render_take(take: Take, start: int = 0, stop: int | None = None) -> Frames:
    """The frames start..stop of a take, exact ground truth, uint8 `t h w c`."""
    ring = panorama(take.place)
    doubled = np.round(np.concatenate([ring, ring[:, :FRAME_SIZE]], axis=1) * 255).astype(np.uint8)
    offsets, moving = camera_offsets(take)
    chosen = range(*slice(start, stop).indices(len(offsets)))
    frames = np.stack([doubled[:, offsets[i] : offsets[i] + FRAME_SIZE] for i in chosen])
    if take.character is None:
        return frames
    colours, mask = figure(take.character)
    painted = np.round(colours * 255).astype(np.uint8)
    left = POSITIONS[take.position]
    for target, i in zip(frames, chosen, strict=True):
        top = FIGURE_TOP - (bob(i) if moving[i] else 0)
        area = target[top : top + FIGURE_SIZE[0], left : left + FIGURE_SIZE[1]]
        area[mask] = painted[mask]
    return frames


def render_sheet(character: Character) -> Frames:
    """A character sheet, one frame `1 h w c`: the figure as it stands, on plain grey."""
    sheet = np.full((1, FRAME_SIZE, FRAME_SIZE, 3), round(SHEET_GREY * 255), dtype=np.uint8)
    colours, mask = figure(character)
    left = POSITIONS[SHEET_POSITION]
    area = sheet[0, FIGURE_TOP : FIGURE_TOP + FIGURE_SIZE[0], left : left + FIGURE_SIZE[1]]
    area[mask] = np.round(colours[mask] * 255).astype(np.uint8)
    return sheet


def render(story: Story, shot: Shot, start: int = 0, stop: int | None = None) -> Frames:
    """The frames of one shot of a story, uint8 `t h w c`."""
    return render_take(shot_take(story, shot), start, stop)
