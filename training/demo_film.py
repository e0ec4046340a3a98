"""The start image and the script of the demo film: a long take that no model was trained on."""

from pathlib import Path

from PIL import Image

from .world import FRAMES_PER_LATENT, Split, Take, long_take, script_line
from .world_rendering import render_take

DEMO_SEED = 4
"""A held-out take with somebody in it, chosen by eye for colours that are easy to tell apart."""

DEMO_SEGMENTS = 12
START_IMAGE = Path(__file__).parent.parent / "weights" / "demo_start.png"


def demo_take(num_segments: int = DEMO_SEGMENTS) -> Take:
    """The take that the demo continues; its first frame is the start image."""
    return long_take(DEMO_SEED, num_segments, split=Split.HELD_OUT)


def demo_script(take: Take) -> str:
    """One script line per segment. The start image counts as the first latent frame of the first
    segment, the tail as the first frames of every other."""
    ends = [segment.start + segment.latent_frames for segment in take.segments]
    new = [end - start for start, end in zip([1, *ends], ends, strict=False)]
    return "\n".join(
        script_line(segment.caption, FRAMES_PER_LATENT * latent_frames)
        for segment, latent_frames in zip(take.segments, new, strict=True)
    )


def write_start_image(path: Path = START_IMAGE) -> None:
    """Write the first frame of the demo take as a PNG."""
    Image.fromarray(render_take(demo_take(), 0, 1)[0]).save(path)
