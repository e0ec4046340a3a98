"""Golden sizes: tokens and seconds per step of keyframes with 20 keyframes of context.

Figure 4 of Captain Cinema (arXiv 2507.18634), run: pairs of a caption (128 tokens) and a picture of
25 x 50 tokens, 24 of them, four made together and twenty in the context, in groups of four.
`naive` keeps every picture at full size; `golden` halves, roughly, the sides from group to group
(memory/golden.py). In both, everything goes through the model in every step. `naive kept` and
`golden kept` are what the pack does: the context goes through it once, its keys and values are read
in every step. `sequence` is what is read, `tokens` what goes through the model in a step.

A tiny Flux with random weights: two of the real heads (128 values, the real rotary axes) instead of
24, one double and one single block. Tokens are counted where the model's attention reads them.
Attention is torch's own kernel, whose speed does not depend on the length, as on a GPU; core's
choice for a CPU cuts long rows into slices. Each round all methods take turns; step_s are seconds
of one core (processor time), the smallest of the rounds, and ratio is the median over the rounds of
a method's time against naive (naive kept for golden kept).

A narrow model spends most of its time in attention, which grows with the square of the tokens, so
its ratio lies below that of the tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

SEEDS = range(3)
"""Each seed is one round."""

GROUP, TEXT, HEIGHT, WIDTH = 4, 128, 25, 50
"""Figure 4: pairs per group, tokens of a caption, tokens of the newest picture."""

LEVELS = 6
STEPS = (1.0, 0.75, 0.5, 0.25)
NETWORK = {
    "hidden_size": 256,
    "num_heads": 2,
    "axes_dim": [16, 56, 56],
    "depth": 1,
    "depth_single_blocks": 1,
    "mlp_ratio": 4.0,
}
METHODS = ("naive", "golden", "naive kept", "golden kept")
CELLS = 2
"""Latent cells along a token's side."""


@dataclass(eq=False)
class Counter:
    """An attention override that counts the tokens whose queries the double block answers, and
    runs torch's kernel."""

    _run: Any
    _calls: list[int] = field(default_factory=list)

    def __call__(self, attention: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["transformer_options"]["block_type"] == "double":
            self._calls.append(q.shape[0] * q.shape[2])
        return self._run(q, *args, **kwargs)

    def take(self) -> int:
        """Tokens since the last time."""
        tokens = sum(self._calls)
        self._calls.clear()
        return tokens


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per method."""
    torch.set_num_threads(1)
    cinema = Cinema()
    measured: dict[str, list[tuple[int, float]]] = {method: [] for method in METHODS}
    with torch.inference_mode():
        for seed in seeds:
            for method in METHODS:
                measured[method].append(cinema.step(method, seed))
            print(f"round {seed}", flush=True)
    return [_row(method, measured, cinema) for method in METHODS]


class Cinema:
    """Twenty keyframes of context and four to be made, at full and at golden sizes."""

    def __init__(self) -> None:
        import comfy.supported_models
        from comfy.ldm.modules.attention import attention_pytorch

        from development.tiny_images import FLUX, TEXT_WIDTH
        from development.tiny_models import TinyFamily
        from throughline.adapters.flux_joint import joint_keyframes
        from throughline.memory.golden import golden_levels
        from throughline.planning.joint import JointPlan, PairTokens

        config = {**FLUX, **NETWORK}
        self.family = TinyFamily(comfy.supported_models.Flux, config, TEXT_WIDTH, 16)
        self.counter = Counter(attention_pytorch)
        model = self.family.model()
        options = model.model_options["transformer_options"]
        options["optimized_attention_override"] = self.counter
        golden = golden_levels(HEIGHT, WIDTH / HEIGHT, LEVELS)[1:]
        sizes = {
            "naive": [(HEIGHT, WIDTH)] * (LEVELS - 1),
            "golden": [(level.short, level.long) for level in golden],
        }
        self.models = {
            name: joint_keyframes(model, mode="full", context=self._context(levels))
            for name, levels in sizes.items()
        }
        full = PairTokens(text=TEXT, image=HEIGHT * WIDTH)
        self.plans = {
            name: JointPlan(
                mode="full",
                pairs=(full,) * GROUP,
                context=tuple(
                    PairTokens(text=TEXT, image=short * long)
                    for short, long in reversed(levels)
                    for _ in range(GROUP)
                ),
            )
            for name, levels in sizes.items()
        }

    def _context(self, levels: list[tuple[int, int]]) -> list[Any]:
        """Oldest first: the smallest level is the oldest group."""
        from throughline.adapters.flux_joint import ContextKeyframe

        sizes = [size for size in reversed(levels) for _ in range(GROUP)]
        return [
            ContextKeyframe(
                latent=_drawn(i, 1, 16, CELLS * height, CELLS * width),
                conditioning=self._caption(i),
            )
            for i, (height, width) in enumerate(sizes)
        ]

    def _caption(self, seed: int) -> list[list[Any]]:
        [[_, options]] = self.family.conditioning(seed)
        return [[_drawn(seed, 1, TEXT, self.family.text_width), options]]

    def step(self, method: str, seed: int) -> tuple[int, float]:
        """Tokens and seconds of one step."""
        name, _, kept = method.partition(" ")
        noise = _drawn(1000 + seed, GROUP, 16, CELLS * HEIGHT, CELLS * WIDTH)
        return self._kept(name, noise) if kept else self._whole(name, noise)

    def _whole(self, name: str, noise: Any) -> tuple[int, float]:
        """One call outside of a sampling, where nothing is kept."""
        model = self.models[name]
        base = model.model
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
        text, pooled = self._texts()
        self.counter.take()
        start = time.process_time()
        base.apply_model(
            noise,
            torch.full((GROUP,), STEPS[0]),
            c_crossattn=text,
            y=pooled,
            guidance=torch.full((GROUP,), 3.5),
            transformer_options=options,
        )
        seconds = time.process_time() - start
        return self.counter.take(), seconds

    def _texts(self) -> tuple[Any, Any]:
        [[text, options]] = self._prompts()
        return text, options["pooled_output"]

    def _prompts(self) -> list[list[Any]]:
        from throughline.adapters.flux_joint import join_prompts

        return join_prompts([self._caption(100 + i) for i in range(GROUP)])

    def _kept(self, name: str, noise: Any) -> tuple[int, float]:
        """Core's sampler; the time and the tokens between its steps."""
        import comfy.sample
        import comfy.samplers

        times, tokens = [], []

        def callback(*_: Any) -> None:
            times.append(time.process_time())
            tokens.append(self.counter.take())

        positive = self._prompts()
        comfy.sample.sample_custom(
            self.models[name],
            noise,
            1.0,
            comfy.samplers.sampler_object("euler"),
            torch.tensor(STEPS),
            positive,
            positive,
            torch.zeros_like(noise),
            callback=callback,
            disable_pbar=True,
            seed=0,
        )
        seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
        return tokens[-1], median(seconds)


def _drawn(seed: int, *shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _row(
    method: str, measured: dict[str, list[tuple[int, float]]], cinema: Cinema
) -> dict[str, Any]:
    base = measured["naive kept" if method.endswith("kept") else "naive"]
    own = measured[method]
    return {
        "method": method,
        "sequence": cinema.plans[method.partition(" ")[0]].tokens,
        "tokens": own[0][0],
        "token_ratio": own[0][0] / measured["naive"][0][0],
        "step_s": min(seconds for _, seconds in own),
        "ratio": median(mine / naive for (_, mine), (_, naive) in zip(own, base, strict=True)),
    }
