"""The ways to roll out a video by name, as nodes offer them and planners' files name theirs."""

from __future__ import annotations

from collections.abc import Callable

from .rollout import CoarseToFine, Rollout, Windows
from .rollout_framepack import FramePack
from .rollout_full import FullResolution
from .rollout_mirrored import Mirrored

COARSE_TO_FINE = "coarse to fine"
FULL_RESOLUTION = "full resolution"
FRAME_PACK = "FramePack"
MIRRORED = "mirrored"


def _full_resolution(windows: Windows) -> Rollout:
    if len(windows.frames) != 1:
        raise ValueError(f"a rollout at full resolution has one window, of level 0, got {windows}")
    return FullResolution(windows.frames[0])


BASELINES: dict[str, Callable[[Windows], Rollout]] = {
    FULL_RESOLUTION: _full_resolution,
    FRAME_PACK: FramePack,
    MIRRORED: Mirrored,
}
ROLLOUTS = (COARSE_TO_FINE, *BASELINES)


def choose_rollout(name: str, windows: Windows, finest: int = 0) -> Rollout:
    """The rollout of a name. Raises ValueError for one that is not there, windows that are not its,
    and a finest level that it cannot leave out."""
    if name == COARSE_TO_FINE:
        return CoarseToFine(windows, finest)
    if name not in BASELINES:
        raise ValueError(f"a rollout is one of {', '.join(ROLLOUTS)}, got {name!r}")
    if finest:
        raise ValueError(
            f"only the rollout {COARSE_TO_FINE!r} can stop above level 0, got level {finest} for "
            f"{name!r}"
        )
    return BASELINES[name](windows)


def rollout_name(rollout: Rollout) -> str:
    """The name and the windows of a rollout, for people: "coarse to fine, windows 1, 4, 16"."""
    match rollout:
        case CoarseToFine(windows, 0):
            return f"{COARSE_TO_FINE}, windows {windows}"
        case CoarseToFine(windows, finest):
            return f"{COARSE_TO_FINE}, windows {windows}, down to level {finest}"
        case FullResolution(window):
            return f"{FULL_RESOLUTION}, window {window}"
        case FramePack(windows):
            return f"{FRAME_PACK}, windows {windows}"
        case Mirrored(windows):
            return f"{MIRRORED}, windows {windows}"
    raise ValueError(f"a rollout must be one of {', '.join(ROLLOUTS)}, got {rollout!r}")
