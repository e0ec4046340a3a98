"""What the two stages of a history encoder's training are trained with: the figures alone.

A stage goes through phases; each says up to which step it lasts. The demo's figures are those that
its shipped weights were made with (what differs stands in weights/README.md), a real model's those
of the paper and of AlayaWorld where they say something, else ours and untried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..memory.encoder import PAPER_WIDTHS
from .memory_plan import StepShape
from .memory_training import MemoryTrainingConfig

ADDRESS_WEIGHT = 0.1
"""Of the addresses' own loss beside the velocity's (ours)."""


@dataclass(frozen=True)
class Stage:
    """A stage: the folder of its results, the stage whose result it begins with, and its phases in
    the demo and for real. `address_steps` of the addresses alone come first.

    `empty_captions` says whether the demo sometimes goes without a caption.
    """

    name: str
    folder: str
    after: str | None
    demo: tuple[MemoryTrainingConfig, ...]
    real: tuple[MemoryTrainingConfig, ...]
    address_steps: int = 0
    empty_captions: bool = False


_DEMO = MemoryTrainingConfig()
_REAL = replace(
    _DEMO,
    steps=20_000,
    widths=PAPER_WIDTHS,
    lora_rank=128,  # paper v6, section 4.1
    # AlayaWorld, configs/stage2a_histpretrain.yaml
    peak_learning_rate=5e-5,
    weight_decay=1e-3,
    gradient_clip=5.0,
    shape=StepShape(histories=1, queries=1, segments=(3, 1000), ordered=True),
)

RETRIEVAL = Stage(
    name="encoder",
    folder="retrieval",
    after=None,
    demo=(replace(_DEMO, steps=2200, address_dim=0),),
    real=(replace(_REAL, address_dim=0),),
)

_FILM = replace(_DEMO, lora_name="film", dropout=0.05, decay_from=2.0)

FILM = Stage(
    name="memory",
    folder="film",
    after="retrieval",
    # A share of Stage I stays in, and shots that the history holds lead over to new ones (ours:
    # without such a bridge the memory was not read, see the design's section 2.1).
    demo=(
        replace(
            _FILM,
            seed=1,
            steps=800,
            tasks=(("frames", 0.15), ("repeat", 0.55), ("shot", 0.3)),
            ways=(("encoder 2x2x2", 0.5), ("encoder 4x4x2", 0.5)),
            shape=StepShape(histories=6, queries=4, segments=(1, 3), slots=6),
        ),
        replace(
            _FILM,
            seed=2,
            steps=1500,
            tasks=(("frames", 0.1), ("repeat", 0.2), ("shot", 0.7)),
            ways=(
                ("encoder 2x2x2", 0.42),
                ("encoder 4x4x2", 0.42),
                ("low 4x4x2", 0.03),
                ("packed 4x4x2", 0.03),
                ("framepack", 0.05),
                ("window", 0.05),
            ),
            shape=StepShape(histories=5, queries=4, segments=(2, 6), slots=14),
        ),
        replace(
            _FILM,
            seed=3,
            steps=4500,
            decay_from=0.62,
            tasks=(("frames", 0.1), ("repeat", 0.1), ("shot", 0.8)),
            ways=(
                ("encoder 2x2x2", 0.41),
                ("encoder 4x4x2", 0.41),
                ("low 4x4x2", 0.02),
                ("packed 4x4x2", 0.02),
                ("framepack", 0.07),
                ("window", 0.07),
            ),
            shape=StepShape(histories=4, queries=4, segments=(3, 7)),
        ),
    ),
    real=(replace(_REAL, lora_name="film", tasks=(("frames", 0.2), ("shot", 0.8)), dropout=0.1),),
    address_steps=800,
    empty_captions=True,
)
