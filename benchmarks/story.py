"""Two leads of a twelve-shot story go away and come back: keyframes with recall, recency, nothing.

Held-out stories of the demo world. Each lead returns after four or five shots without her, where
the newest three keyframes do not show her. The planner's own path draws the keyframes: the script
is parsed, captions, tags, places and the drift gate decide what a shot recalls, the demo video
model draws one latent frame beside it. The first keyframe of each lead is the true one, as an
artist's own picture of her; all others are made, each beside those made before it in the same way.
Same seeds, steps and captions for all; recall and recency show three pictures, as many tokens.

recall, recency, none        the story as the planner makes it
true recall, true recency    the same shots beside true keyframes, as if all before had gone well

psnr in dB over the pixels of the lead who returns; colour_error is how far the mean colours of her
head, body and legs are from the true ones (0..255); frame_psnr is over the whole picture; psnr_more
is how much more than recency's of the same kind for the same shot, with its standard error; tokens
those of the memory; n the returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._keyframing import REFERENCES, Cast, Drawn, Keyframer, cast_of, compare, picks, plan_story

SEEDS = range(32)
WAYS = ("recall", "recency", "none")
TRUE_WAYS = ("recall", "recency")
SEED_STEP = 100
"""Between the noise seeds of two stories; a shot's is its index beyond that."""

PICTURE = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "story.png"
PICTURE_STORIES = 6
SCALE, GAP, MARGIN = 2, 4, 12  # of the picture: px per pixel, between keyframes, between stories
MARK = (255, 255, 255)
"""The frame around a keyframe in which somebody returns."""


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per way; the stories are saved as pictures below build/."""
    torch.set_num_threads(1)
    keyframer = Keyframer()
    figures: dict[str, list[dict[str, float]]] = {}
    stories = []
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            cast = cast_of(seed)
            rows = tell(keyframer, cast, seed * SEED_STEP, figures)
            if done < PICTURE_STORIES:
                stories.append((cast, rows))
            print(f"story {seed}: {done + 1} of {len(seeds)}", flush=True)
    save_picture(PICTURE, stories)
    print(f"picture {PICTURE}: per story the truth, {', '.join(WAYS)}", flush=True)
    return [
        summary(name, found, figures["true recency" if name.startswith("true") else "recency"])
        for name, found in figures.items()
    ]


def tell(
    keyframer: Keyframer, cast: Cast, seed: int, figures: dict[str, list[dict[str, float]]]
) -> dict[str, list[Tensor]]:
    """One story in every way: adds the figures of its returns and gives its pictures."""
    from throughline.training.returning_cast import openings, returns

    rows = {"truth": [look.picture for look in cast.looks]}
    for way in WAYS:
        made = plan_story(keyframer, cast, way, seed, openings(cast.story))
        rows[way] = [drawn.picture[0] for drawn in made]
        for index in returns(cast.story):
            add(figures, way, keyframer, cast, index, made[index])
    true = [keyframer.given(look.picture[None]) for look in cast.looks]
    for way in TRUE_WAYS:
        for index in returns(cast.story):
            chosen = picks(way, cast, index, true, keyframer.clip)
            shown = [(cast.prompts[i], true[i]) for i in chosen]
            drawn = keyframer.draw(cast.prompts[index], shown, seed + index)
            add(figures, f"true {way}", keyframer, cast, index, drawn)
    return rows


def add(
    figures: dict[str, list[dict[str, float]]],
    name: str,
    keyframer: Keyframer,
    cast: Cast,
    index: int,
    drawn: Drawn,
) -> None:
    """Measure one returning lead."""
    tokens = 0 if name == "none" else keyframer.tokens(REFERENCES)
    found = compare(drawn.picture, cast.looks[index])
    figures.setdefault(name, []).append({**found, "tokens": float(tokens)})


def summary(
    name: str, rows: list[dict[str, float]], recency: list[dict[str, float]]
) -> dict[str, Any]:
    """Means over the returns, and the gain over recency."""
    more = np.array([a["psnr"] - b["psnr"] for a, b in zip(rows, recency, strict=True)])
    spread = float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else float("nan")
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    gain = {"psnr_more": float(more.mean()), "standard_error": spread}
    return {"method": name, **means, "n": len(rows), **gain}


def save_picture(path: Path, stories: list[tuple[Cast, dict[str, list[Tensor]]]]) -> None:
    """Stories below each other: a line for the truth and for each way, a column for every shot;
    keyframes in which somebody returns are framed."""
    from PIL import Image, ImageDraw

    from throughline.training.returning_cast import returns

    side = SCALE * stories[0][0].looks[0].picture.shape[0]
    step, lines = side + GAP, len(stories[0][1])
    width = GAP + step * len(stories[0][0].looks)
    image = Image.new("RGB", (width, GAP + len(stories) * (lines * step + MARGIN) - MARGIN))
    draw, top = ImageDraw.Draw(image), GAP
    for cast, rows in stories:
        for pictures in rows.values():
            for index, picture in enumerate(pictures):
                left = GAP + index * step
                pixels = Image.fromarray((picture * 255).round().byte().numpy())
                image.paste(pixels.resize((side, side), Image.Resampling.NEAREST), (left, top))
                if index in returns(cast.story):
                    box = (left - 2, top - 2, left + side + 1, top + side + 1)
                    draw.rectangle(box, outline=MARK, width=2)
            top += step
        top += MARGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
