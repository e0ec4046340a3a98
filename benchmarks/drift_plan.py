"""Twenty-four segments, chained or planned four at a time and then filled, at equal sampling steps.

The demo models follow held-out camera paths of their world from a true beginning of two latent
frames and are compared with the true frames. A segment is 16 new frames with one camera move. Chain
and plan make 8 steps of a sampler for each new latent frame (`frame_steps` in all); `steps` counts
the calls of the model, which hold more frames or fewer.

chain      the demo video model continues the latents of the segment before, 24 times; a caption
           names the one camera move
plan       the demo sparse planner (dev.py train sparse; MMPL's layout over 18 latent frames): seven
           anchors stand for four segments and start the next four after a decoding and encoding of
           five frames, so there are 6 hops; then two fills between the anchors, which nobody reads.
           A caption names the four moves that the chain is told in four captions
retrained  a chain of the planner's own weights, to tell planning from more training

Each way makes two films of every seed's place. In one the camera stands still or goes to and fro by
one pose, so that a wall that is true stays in sight, and what differs from the true frames has
drifted. In the other (`over pans`) it pans three or four poses, and what leaves the picture is gone
for models without a memory: PSNR falls within a few segments to where all walls are invented (about
13 dB) and no further, whatever drifts.

psnr in dB against the true frames: the mean over segments 2 to 24, then of single segments;
slope_db_per_segment is the least-squares slope over segments 2 to 24. psnr_less is how much less
PSNR is than the chain's for the same seed, gentler how much more its slope is, with their standard
errors over the seeds. drift in percent per hop, seam and motion as in memory/drift.py, the means
over the seeds. The plot, the figures of every segment and hop and the last frames of some segments
of the first films, the true ones above, are saved below build/benchmarks/.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .drift import HANDED_FRAMES, LATENT_FRAMES, TAIL, Bench

SEEDS = range(3_000_000, 3_000_008)
SEGMENTS = 24
SHOWN = (1, 2, 4, 8, 16, 24)
PICTURED = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
NEW_FRAMES = 16
SLOPE = "slope_db_per_segment"
SWAY = 1  # most poses that the camera leaves its place in a film that stays in view
STEPS = 8
"""Steps for each new latent frame, as in the bench `drift`."""

PLOT = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "drift_plan.png"


class Ways(Bench):
    """The demo models and the ways to make a film of them, with a count of the work."""

    def __init__(self) -> None:
        from throughline.adapters.demo_models import (
            SPARSE_TEXT_FILE,
            SPARSE_VIDEO_FILE,
            load_demo_text_encoder,
            load_demo_video_model,
        )

        super().__init__()
        self.planner = load_demo_video_model(SPARSE_VIDEO_FILE)
        self.planner_clip = load_demo_text_encoder(SPARSE_TEXT_FILE)
        self.steps, self.frame_steps = 0, 0

    def use(self, steps: int) -> None:
        """Sample the demo video model with this many steps from now on."""
        self.settings = self.settings_of(self.model, steps)

    def settings_of(self, model: Any, steps: int) -> Any:
        from dataclasses import replace

        from throughline.adapters.sampling import schedule_sigmas

        return replace(self.settings, sigmas=schedule_sigmas(model, "euler", "simple", steps))

    def count(self, steps: int, new_frames: int) -> None:
        self.steps += steps
        self.frame_steps += steps * new_frames

    # --- chains

    def chain(self, take: Any, start: Tensor, seed: int) -> list[Tensor]:
        """The new frames [16, h, w, 3] of every segment, decoded as one clip."""
        self.use(STEPS)
        return self.chained(
            take, start, lambda caption, known, i: self.sampled(caption, known, seed_of(seed, i))
        )

    def retrained(self, take: Any, start: Tensor, seed: int) -> list[Tensor]:
        """The same with the planner's weights, which learned such segments as well."""
        layout = chain_layout()

        def one(caption: str, known: Tensor, index: int) -> Tensor:
            frames = dict(enumerate(known.split(1, dim=2)))
            made = self.groups(layout, caption, frames, seed_of(seed, index), ("initial", "plan"))
            return torch.cat([made[i] for i in sorted(made)], dim=2)

        return self.chained(take, start, one)

    def chained(
        self, take: Any, start: Tensor, segment: Callable[[str, Tensor, int], Tensor]
    ) -> list[Tensor]:
        known, latents = start, [start]
        for index, caption in enumerate(take.captions):
            latent = segment(caption, known, index)
            latents.append(latent[:, :, TAIL:])
            known = latent[:, :, -TAIL:]
        return list(self.decode(torch.cat(latents, dim=2))[HANDED_FRAMES:].split(NEW_FRAMES))

    def sampled(self, caption: str, known: Tensor, seed: int) -> Tensor:
        """One segment of the demo video model that continues `known`."""
        self.count(len(self.settings.sigmas) - 1, LATENT_FRAMES - TAIL)
        return self.segment(self.family, caption, known, seed)

    # --- plans

    def plan(self, take: Any, start: Tensor, seed: int) -> list[Tensor]:
        """Four segments at a time: anchors first, of all of the film, then the fills."""
        from throughline.planning.layout import mmpl_t2v
        from throughline.training.sparse_data import PLANNED_LATENT_FRAMES

        layout, captions = mmpl_t2v(PLANNED_LATENT_FRAMES), list(path_captions_of(take))
        hand_over, known, plans = self.handing(layout), start, []
        for index, caption in enumerate(captions):
            frames = dict(enumerate(known.split(1, dim=2)))
            kinds = ("initial", "plan")
            plans.append(self.groups(layout, caption, frames, seed_of(seed, index), kinds))
            known = hand_over(plans[-1])
        films = []
        for index, (caption, frames) in enumerate(zip(captions, plans, strict=True)):
            made = self.groups(layout, caption, frames, seed_of(seed, index))
            latent = torch.cat([made[i] for i in sorted(made)], dim=2)
            films += self.decode(latent)[HANDED_FRAMES:].split(NEW_FRAMES)
        return films

    def groups(
        self,
        layout: Any,
        caption: str,
        known: dict[int, Tensor],
        seed: int,
        kinds: Sequence[Any] = ("initial", "plan", "fill"),
    ) -> dict[int, Tensor]:
        """Groups of a segment by the sparse planner, those of these kinds."""
        from throughline.adapters.sparse_sampling import sample_groups

        text = self.planner_clip.encode_from_tokens_scheduled(self.planner_clip.tokenize(caption))
        some = known[0]
        made = sample_groups(
            self.planner,
            layout,
            known,
            text,
            text,
            self.settings_of(self.planner, STEPS),
            (1, some.shape[1], layout.latent_frames, *some.shape[3:]),
            seed,
            kinds=kinds,
        )
        new = [g for g in layout.groups if g.kind in kinds and g.ids[0] not in known]
        for group in new:
            self.count(STEPS, len(group.ids))
        return made

    def handing(self, layout: Any) -> Callable[[dict[int, Tensor]], Tensor]:
        """From a plan to the start of the next one."""
        from throughline.adapters.geometry import read_geometry
        from throughline.adapters.hand_off import hand_over
        from throughline.planning.macro import hand_off

        step = hand_off(layout, read_geometry(self.model).grid)
        return lambda latents: hand_over(self.vae, latents, step)


WAYS: dict[str, Callable[..., list[Tensor]]] = {
    "chain": Ways.chain,
    "plan": Ways.plan,
    "retrained": Ways.retrained,
}


def chain_layout() -> Any:
    """A chain's segment as a layout: two frames it starts from, four made together."""
    from throughline.planning.layout import layout_of_steps

    return layout_of_steps("chain", [0] * TAIL + [1] * (LATENT_FRAMES - TAIL))


def path_captions_of(take: Any) -> Iterator[str]:
    """A caption for each four segments of a take, which names their turning points."""
    from throughline.training.sparse_data import MOVES, path_caption

    name = None if take.character is None else take.character.name
    for first in range(0, len(take.segments), MOVES):
        moves = take.segments[first : first + MOVES]
        stations = [moves[0].from_pose, *(move.to_pose for move in moves)]
        yield path_caption(take.place.word, name, take.position, stations)


def seed_of(seed: int, index: int) -> int:
    """The noise seed of one segment, as in the bench `drift`."""
    return seed * 1000 + index


def in_view(seed: int) -> Any:
    """A film whose camera stands still or goes to and fro by one pose."""
    from throughline.training.sparse_data import draw_sway
    from throughline.training.world import Split, long_take, seeded_generator, take_from_turns

    look = long_take(seed, 1, LATENT_FRAMES, TAIL)
    generator = seeded_generator(seed, Split.HELD_OUT, "film in view")
    turns, lengths = draw_sway(generator, SEGMENTS, SWAY), (LATENT_FRAMES,) * SEGMENTS
    return take_from_turns(
        look.place, look.character, look.position, look.poses[0], turns, lengths, TAIL
    )


def over_pans(seed: int) -> Any:
    """A film whose camera pans away and comes back, as in the bench `drift`."""
    from throughline.training.world import long_take

    return long_take(seed, SEGMENTS, LATENT_FRAMES, TAIL)


FILMS: dict[str, Callable[[int], Any]] = {"in view": in_view, "over pans": over_pans}
"""The kinds of films, the one that the rows are named after first."""


@dataclass
class Found:
    """What one way gave in films of one kind: figures of each film, PSNR of each of its segments,
    drift of each of its hops."""

    figures: list[dict[str, float]] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)
    hops: list[list[float]] = field(default_factory=list)


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per kind of film and way."""
    torch.set_num_threads(1)
    ways = Ways()
    found = {kind: {name: Found() for name in WAYS} for kind in FILMS}
    pictures: list[list[Tensor]] = []
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            for kind, film in FILMS.items():
                shown = compare(ways, film(seed), seed, found[kind])
                pictures += [] if done else shown
                means = {name: one.figures[-1]["psnr"] for name, one in found[kind].items()}
                told = ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in means.items())
                print(f"seed {seed}, {kind}: {told}", flush=True)
            print(f"seed {seed}: {done + 1} of {len(seeds)}", flush=True)
    save(found)
    save_pictures(pictures)
    return [
        {
            "method": name if kind == next(iter(FILMS)) else f"{name} {kind}",
            **mean(one.figures),
            **against(by_way["chain"].figures, one.figures),
        }
        for kind, by_way in found.items()
        for name, one in by_way.items()
    ]


def compare(ways: Ways, take: Any, seed: int, found: dict[str, Found]) -> list[list[Tensor]]:
    """Make one film in every way and add what was found; the segments, the true ones first."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world_rendering import render_take

    truth = frames_to_image(render_take(take))
    start = ways.vae.encode(truth[:HANDED_FRAMES])
    films = [list(truth[HANDED_FRAMES:].split(NEW_FRAMES))]
    for name, make in WAYS.items():
        began, ways.steps, ways.frame_steps = time.perf_counter(), 0, 0
        films.append(make(ways, take, start, seed))
        one = found[name]
        one.curves.append(psnr_of(films[-1], films[0]))
        figures = growth(one.curves[-1]) | appearance(films[-1], one.hops)
        figures |= {"steps": ways.steps, "frame_steps": ways.frame_steps}
        one.figures.append(figures | {"seconds": time.perf_counter() - began})
    return films


def psnr_of(segments: list[Tensor], truth: list[Tensor]) -> list[float]:
    """PSNR of each segment of a film in dB."""
    errors = [float((a - b).square().mean()) for a, b in zip(segments, truth, strict=True)]
    return [10.0 * float(np.log10(1.0 / max(error, 1e-10))) for error in errors]


def growth(psnr: list[float]) -> dict[str, float]:
    """How the error of one film grows."""
    return {
        "psnr": float(np.mean(psnr[1:])),
        SLOPE: slope(psnr[1:]),
        **{f"psnr_{number}": psnr[number - 1] for number in SHOWN if number <= len(psnr)},
    }


def appearance(segments: list[Tensor], hops: list[list[float]]) -> dict[str, float]:
    """The drift of one film's look, whatever is true; the drift of each hop goes to `hops`."""
    from throughline.memory.drift import drift_report, measure_segments

    measures = measure_segments(segments, frames_per_latent=4)
    report = drift_report(measures)
    hops.append([hop.drift_percent or 0.0 for hop in report.hops])
    return {
        "drift": report.drift_percent or 0.0,
        "seam": float(np.mean([hop.seam for hop in report.hops])),
        "motion": float(np.mean([one.motion for one in measures])),
    }


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of evenly spaced values."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}


def against(chain: list[dict[str, float]], figures: list[dict[str, float]]) -> dict[str, float]:
    """The means of the paired differences from the chain and their standard errors."""
    names = {"psnr": ("psnr_less", "psnr_error"), SLOPE: ("gentler", "gentler_error")}
    told = {}
    for key, (name, error) in names.items():
        pairs = zip(chain, figures, strict=True)
        found = np.array([own[key] - of_chain[key] for of_chain, own in pairs])
        told[name] = float(found.mean()) * (-1 if key == "psnr" else 1)
        several = len(found) > 1
        told[error] = float(found.std(ddof=1) / np.sqrt(len(found))) if several else float("nan")
    return told


def save(found: dict[str, dict[str, Found]]) -> None:
    """Write PSNR by segment and drift by hop, means over the films, and draw the first."""
    by_kind = {
        kind: {
            "psnr": {name: np.mean(one.curves, axis=0).tolist() for name, one in ways.items()},
            "drift": {name: np.mean(one.hops, axis=0).tolist() for name, one in ways.items()},
        }
        for kind, ways in found.items()
    }
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.with_suffix(".json").write_text(json.dumps(by_kind, indent=1) + "\n", encoding="utf-8")
    save_plot({f"PSNR in dB, {kind}": figures["psnr"] for kind, figures in by_kind.items()})


def save_plot(panels: dict[str, dict[str, list[float]]]) -> None:
    """PSNR by segment, a line for each way: a panel for each kind of film."""
    from PIL import Image, ImageDraw

    width, height, margin, low, high = 480, 360, 40, 10.0, 38.0
    image = Image.new("RGB", (width * len(panels), height), "white")
    draw = ImageDraw.Draw(image)
    across, up = (width - 2 * margin) / (SEGMENTS - 1), (height - 2 * margin) / (high - low)
    colours = ("#c0392b", "#2471a3", "#b9770e")
    for panel, (title, curves) in enumerate(panels.items()):
        left, bottom = panel * width + margin, height - margin
        for value in range(int(low), int(high) + 1, 4):
            y = bottom - (value - low) * up
            draw.line((left, y, left + width - 2 * margin, y), fill="#dddddd")
            draw.text((left - 20, y - 6), f"{value}", fill="black")
        draw.text((left, 12), title, fill="black")
        draw.text((left + 150, height - 24), f"segment, 1 to {SEGMENTS}", fill="black")
        for number, (colour, (name, curve)) in enumerate(
            zip(colours, curves.items(), strict=False)
        ):
            points = [(left + i * across, bottom - (db - low) * up) for i, db in enumerate(curve)]
            draw.line(points, fill=colour, width=3)
            draw.text((left + width - 3 * margin - 30, margin + 14 * number), name, fill=colour)
    image.save(PLOT)
    print(f"plot {PLOT}", flush=True)


def save_pictures(films: list[list[Tensor]]) -> None:
    """The last frames of the segments that are pictured, a row for each film."""
    from PIL import Image

    chosen = [number - 1 for number in PICTURED if number <= SEGMENTS]
    rows = [torch.cat([film[index][-1] for index in chosen], dim=1) for film in films]
    image = Image.fromarray((torch.cat(rows) * 255).round().byte().numpy())
    path = PLOT.with_name("drift_plan_frames.png")
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)
    print(f"pictures {path}", flush=True)
