"""Speed-up of a planned film against devices and segments, by simulation of its schedule.

Costs are those of MMPL's public server log (I2V 14B, 4 GPUs; shared design
`macro-micro-planning.md`, section 5.3): a hop of 139.4 s, the hand-off included, and 846.9 s for 4
segments on 4 GPUs; the two fills in the proportion of their work. Every row is a length of film:
against one device the speed-up of K devices by list scheduling, critical path first, as the
executors run it; `released` is what the released scripts reach on 4 (plan and fills of a segment
one job), `most` what any number of devices can (the work over the longest chain), `enough` is K*.
`error` of the first row is that of 4 segments on 4 devices against the log.

The drawing below build/ has a curve for each K over the segments, dashed for the released scripts
on 2 and 3 devices; on 4 they reach the same.
No model runs; the seeds are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DEVICES = (1, 2, 3, 4, 6, 8)
SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
RELEASED = (2, 3, 4)
SHOWN = (4, 6, 12, 24, 48)
"""Rows of the table: those of section 5.4."""

LOGGED = 846.9
"""Seconds of 4 segments on 4 GPUs, the mean of nine runs."""

HOP, SEGMENT = 139.4, 431.5
"""Seconds of a plan with its hand-off and of a whole segment."""

FILLS = (1.04, 1.22)
"""Work of the fills of the I2V model against its plan."""

PICTURE = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "schedule.png"
WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 800, 60, 490
BACKGROUND, INK, FAINT = (24, 24, 27), (228, 228, 231), (70, 70, 74)
COLOURS = {
    # Okabe and Ito, Color Universal Design (2008): told apart by colour-blind readers too
    1: (150, 150, 150),
    2: (240, 228, 66),
    3: (230, 159, 0),
    4: (86, 180, 233),
    6: (0, 158, 115),
    8: (204, 121, 167),
}
DASH = 6


def run(seeds: range) -> list[dict[str, Any]]:
    """A row for each length of film; saves the drawing."""
    from throughline.planning.forecast import enough_devices, fused_makespan, lower_bounds

    costs = released_costs()
    curves = {
        devices: [speed_up(segments, devices) for segments in SEGMENTS] for devices in DEVICES
    }
    fused = {
        devices: [
            lower_bounds(segments, costs, 1).area / fused_makespan(segments, costs, devices)
            for segments in SEGMENTS
        ]
        for devices in RELEASED
    }
    draw(curves, fused, enough_devices(costs))
    rows = []
    for place, segments in enumerate(SEGMENTS):
        if segments not in SHOWN:
            continue
        bounds = lower_bounds(segments, costs, 1)
        row: dict[str, Any] = {"method": f"{segments} segments"}
        row |= {f"K={devices}": curves[devices][place] for devices in DEVICES}
        row |= {"released": fused[RELEASED[-1]][place], "most": bounds.area / bounds.chain}
        row["enough"] = enough_devices(costs)
        row["error"] = fused_makespan(4, costs, 4) / LOGGED - 1.0 if segments == 4 else ""
        rows.append(row)
    print(f"drawing {PICTURE}", flush=True)
    return rows


def released_costs() -> Any:
    """Seconds of each step in the public log."""
    from throughline.planning.schedule import Costs

    fills = SEGMENT - HOP
    first, second = (fills * share / sum(FILLS) for share in FILLS)
    return Costs(plan=HOP, fill_1=first, fill_2=second)


def speed_up(segments: int, devices: int) -> float:
    """How many times faster than on one device."""
    from throughline.planning.schedule import film_jobs, list_schedule

    graph = film_jobs(segments, released_costs())
    return sum(graph.seconds.values()) / list_schedule(graph, devices).makespan


def draw(curves: dict[int, list[float]], fused: dict[int, list[float]], enough: int) -> None:
    """The curves, the segments on a scale that doubles."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    title = f"Speed-up of a planned film on K devices (more than {enough} gain nothing)"
    pen.text((LEFT, 20), title, INK, ImageFont.load_default(size=18))
    top = max(max(curve) for curve in curves.values())
    for value in range(int(top) + 2):
        y = _y(value, top)
        pen.line([(LEFT, y), (RIGHT, y)], FAINT, 1)
        pen.text((LEFT - 10, y), f"{value}x", INK, font, anchor="rm")
    for segments in SEGMENTS:
        pen.text((_x(segments), BOTTOM + 10), str(segments), INK, font, anchor="ma")
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 34), "segments", INK, font, anchor="ma")
    below = 0.0
    for devices, curve in sorted(curves.items(), key=lambda one: -one[1][-1]):
        points = [(_x(s), _y(v, top)) for s, v in zip(SEGMENTS, curve, strict=True)]
        pen.line(points, COLOURS[devices], 3)
        y = max(points[-1][1], below + 18)  # labels of equal curves stand below each other
        pen.text((RIGHT + 10, y), f"K = {devices}", COLOURS[devices], font, anchor="lm")
        below = y
    for devices in RELEASED[:-1]:
        points = [(_x(s), _y(v, top)) for s, v in zip(SEGMENTS, fused[devices], strict=True)]
        _dashed(pen, points, COLOURS[devices])
    pen.text((LEFT + 12, TOP + 6), "dashed: released scripts", INK, font)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.save(PICTURE)


def _dashed(pen: Any, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        count = max(1, int(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 / DASH))
        for k in range(0, count, 2):
            a, b = k / count, min(1.0, (k + 1) / count)
            dash = [(x0 + a * (x1 - x0), y0 + a * (y1 - y0)),
                    (x0 + b * (x1 - x0), y0 + b * (y1 - y0))]  # fmt: skip
            pen.line(dash, colour, 2)


def _x(segments: int) -> float:
    from math import log2

    return LEFT + log2(segments) / log2(SEGMENTS[-1]) * (RIGHT - LEFT)


def _y(value: float, top: float) -> float:
    return BOTTOM - value / (int(top) + 1) * (BOTTOM - TOP)
