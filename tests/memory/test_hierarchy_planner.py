"""The planner over codes: constants of the design, what tokens see, sampling step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from throughline.memory.hierarchy import (
    CellState,
    Hierarchy,
    HierarchyGrid,
    PatchHead,
    PooledHead,
    grid_of,
)
from throughline.memory.hierarchy_planner import (
    HierarchyPlanner,
    PlannerConfig,
    TextReader,
    TokenSpan,
    mixed,
    noise_code,
    position_code,
    signal_and_noise,
)
from throughline.memory.hierarchy_sampling import (
    Denoising,
    denoise_step,
    denoised,
    plan_chunk,
    step_noise,
)
from throughline.planning.rollout import CoarseToFine, RolloutStep, Span, Windows
from throughline.planning.rollout_full import FullResolution
from throughline.planning.rollout_mirrored import Mirrored

GRID, FRAMES, CONDITION = HierarchyGrid(4, 4, 2), 12, 3
HEAD = PooledHead(2, 2)
ROLLOUT = CoarseToFine(Windows((1, 4)))
FAST = Denoising(steps=3, seed=7)


def tiny(config: PlannerConfig | None = None, seed: int = 0) -> HierarchyPlanner:
    """A planner with random weights large enough to matter."""
    planner = HierarchyPlanner(
        config or PlannerConfig(HEAD.code_channels, 0, CONDITION, width=24, blocks=2, heads=2)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in planner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return planner.eval()


def span(level: int, frames: Sequence[int], seed: int, noise: float = 0.0) -> TokenSpan:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(frames), GRID.cells(level), HEAD.code_channels[level])
    return TokenSpan(
        level,
        torch.randn(shape, generator=generator),
        torch.tensor([list(frames)]),
        torch.full((2,), noise),
        torch.randn(2, len(frames), CONDITION, generator=generator),
    )


CENTRES = [GRID.centres(level) for level in range(2)]


def finished(head: PooledHead | PatchHead, latents: Tensor) -> Hierarchy:
    """The hierarchy of a finished video."""
    grid = grid_of(latents, head.levels)
    result = Hierarchy.empty(head, grid, latents.shape[2])
    for level, codes in enumerate(head.encode(latents)):
        result = result.with_codes(level, 0, codes[0], CellState.FINAL)
    return result


def hierarchy(frames: int = 5, unknown: int = 8) -> Hierarchy:
    latents = torch.randn(1, 2, frames, 4, 4, generator=torch.Generator().manual_seed(3))
    return finished(HEAD, latents).extended(unknown)


def told(frames: int = 13) -> Tensor:
    return torch.randn(frames, CONDITION, generator=torch.Generator().manual_seed(4))


# --- constants of the design, section 2


def test_noise_schedule_has_the_values_of_the_design() -> None:
    alpha, sigma = signal_and_noise(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert alpha.tolist() == pytest.approx([0.99999985, 0.70711, 5.53e-4], rel=1e-3)
    assert alpha[0].item() == pytest.approx(0.99999985, abs=1e-8)
    assert sigma.tolist() == pytest.approx(alpha.flip(0).tolist(), rel=1e-6)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(3, dtype=torch.float64))
    assert 2 * math.log(alpha[0] / sigma[0]) == pytest.approx(15.0, rel=1e-4)


def test_positions_are_sines_of_frame_row_and_column() -> None:
    width, count = 26, 4
    code = position_code(torch.tensor([[-2.0, 5.0]]), torch.tensor([[0.5, 1.5]]), width)
    assert code.shape == (1, 2, 1, width)
    rates = [10_000 ** (-i / (count - 1)) for i in range(count)]
    expected = [
        wave(value * rate)
        for value in (5.0, 0.5, 1.5)
        for wave in (math.sin, math.cos)
        for rate in rates
    ]
    assert code[0, 1, 0].tolist() == pytest.approx([*expected, 0.0, 0.0], abs=1e-5)


def test_noise_is_told_in_256_waves() -> None:
    code = noise_code(torch.tensor([0.0, 0.25]))
    assert code.shape == (2, 256)
    assert code[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert code[1, 0].item() == pytest.approx(math.cos(250.0), abs=1e-4)


def test_mixing_follows_the_schedule() -> None:
    codes, noise = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 5.0)
    alpha, sigma = signal_and_noise(torch.tensor([0.3, 0.9]))
    expected = 3 * alpha + 5 * sigma
    assert torch.allclose(mixed(codes, noise, torch.tensor([0.3, 0.9])).flatten(), expected)


# --- the network


def test_an_untrained_planner_says_nothing() -> None:
    planner = HierarchyPlanner(PlannerConfig(HEAD.code_channels, condition=CONDITION, width=24))
    made = planner([span(0, [0], 1, 0.5)], [span(1, [-1], 2)], CENTRES)
    assert made[0].shape == (2, 1, 4, 8)
    assert not made[0].any()


@torch.no_grad()
def test_the_order_of_the_context_does_not_matter() -> None:
    planner, target = tiny(), span(0, [0, 1], 1, 0.5)
    near, far = span(0, [-1], 2), span(1, [-3, -2], 3)
    one = planner([target], [near, far], CENTRES)[0]
    other = planner([target], [far, near], CENTRES)[0]
    assert torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_what_is_not_valid_is_not_seen() -> None:
    planner, target = tiny(), span(0, [0], 1, 0.5)
    kept, cut = span(1, [-2], 2), span(1, [-9], 3)
    hidden = replace(cut, valid=torch.tensor([[False], [False]]))
    alone = planner([target], [kept], CENTRES)[0]
    assert torch.allclose(planner([target], [kept, hidden], CENTRES)[0], alone, atol=1e-5)
    assert not torch.allclose(planner([target], [kept, cut], CENTRES)[0], alone, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"condition": torch.ones(2, 1, CONDITION)},
        {"frames": torch.tensor([[-4]])},
        {"noise": torch.full((2,), 0.5)},
        {"codes": torch.ones(2, 1, 1, 8)},
    ],
)
@torch.no_grad()
def test_all_that_a_token_brings_matters(change: dict) -> None:
    planner, target, context = tiny(), span(0, [0], 1, 0.5), span(1, [-2], 2)
    one = planner([target], [context], CENTRES)[0]
    other = planner([target], [replace(context, **change)], CENTRES)[0]
    assert not torch.allclose(one, other, atol=1e-4)


def test_training_reaches_every_weight() -> None:
    planner = tiny().train()
    targets = [span(0, [0], 1, 0.5), span(1, [0], 2, 0.5)]
    made = planner(targets, [span(1, [-2], 3)], CENTRES)
    sum(each.square().sum() for each in made).backward()
    assert [name for name, p in planner.named_parameters() if not bool(p.grad.any())] == []


def test_a_planner_of_coarse_levels_has_no_finer_ones() -> None:
    planner = tiny(PlannerConfig(HEAD.code_channels, finest=1, width=24, heads=2))
    assert planner.config.levels == (1,)
    assert set(planner.code_in) == {"1"}


@torch.no_grad()
def test_a_reader_makes_conditions_of_text() -> None:
    torch.manual_seed(0)
    reader = TextReader(6, 8)
    text = torch.randn(1, 5, 6)
    read = reader(text, torch.arange(3))
    assert read.shape == (1, 3, 8)
    assert not torch.allclose(read[:, 0], read[:, 2], atol=1e-4)
    assert torch.allclose(reader(text, torch.tensor([2]))[:, 0], read[:, 2], atol=1e-6)
    assert not torch.allclose(reader(text + torch.randn(6), torch.arange(3)), read, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_channels": ()}, "needs a level"),
        ({"finest": 2}, "finest level of a planner must be below 2, got 2"),
        ({"width": 26}, "multiple of twice its attention heads"),
        ({"text": 4}, "needs a condition"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlannerConfig(**{"code_channels": (8, 8), "width": 24, "heads": 4, **changes})


# --- sampling


class Knowing(HierarchyPlanner):
    """Knows what the targets are: its velocity leads there from anywhere."""

    goal: Tensor

    def forward(
        self, targets: Sequence[TokenSpan], context: Sequence[TokenSpan], centres: Sequence[Tensor]
    ) -> list[Tensor]:
        alpha, sigma = (x.view(-1, 1, 1, 1) for x in signal_and_noise(targets[0].noise))
        return [(alpha * each.codes - self.goal) / sigma for each in targets]


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_the_sampler_arrives_where_the_velocity_leads(steps: int) -> None:
    planner = Knowing(PlannerConfig(HEAD.code_channels, width=24))
    planner.gain.copy_(torch.tensor([1.0, 4.0]))
    planner.goal = torch.randn(2, 1, 4, 8)
    step = RolloutStep(Span(0, 3, 4), ())
    noise = [torch.randn(2, 1, 4, 8)]
    made = denoised(
        planner, [torch.zeros(2, 5, 4, 8)], CENTRES, step, None, noise, Denoising(steps)
    )
    assert torch.allclose(made[0], planner.goal, atol=1e-3)


def test_codes_are_scaled_on_the_way_in_and_out() -> None:
    planner = Knowing(PlannerConfig(HEAD.code_channels, width=24))
    planner.gain.copy_(torch.tensor([1.0, 4.0]))
    planner.goal = torch.ones(1, 1, 1, 8)
    step, noise = RolloutStep(Span(1, 0, 1), ()), [torch.zeros(1, 1, 1, 8)]
    made = denoised(planner, [torch.zeros(1)] * 2, CENTRES, step, None, noise, Denoising(2))
    assert torch.allclose(made[0], torch.tensor(0.25), atol=1e-4)


def test_a_chunk_is_planned_and_nothing_else_touched() -> None:
    before = hierarchy()
    after = plan_chunk(tiny(), before, ROLLOUT.steps(5), told(), FAST)
    assert (after.state[:, :5] == CellState.FINAL).all()
    assert (after.state[:, 5:9] == CellState.PLANNED).all()
    assert (after.state[:, 9:] == CellState.UNKNOWN).all()
    for old, new in zip(before.codes, after.codes, strict=True):
        assert torch.equal(old[:5], new[:5])
        assert new[5:9].abs().min() > 0
        assert not new[9:].any()


def test_two_calls_give_what_one_gives() -> None:
    planner, start = tiny(), hierarchy()
    steps = [*ROLLOUT.steps(5), *ROLLOUT.steps(9)]
    at_once = plan_chunk(planner, start, steps, told(), FAST)
    first = plan_chunk(planner, start, ROLLOUT.steps(5), told(), FAST)
    both = plan_chunk(planner, first, ROLLOUT.steps(9), told(), FAST)
    assert all(torch.equal(a, b) for a, b in zip(at_once.codes, both.codes, strict=True))


def test_a_window_of_the_timeline_gives_what_the_whole_gives() -> None:
    planner, whole = tiny(), hierarchy(9, 4)
    expected = plan_chunk(planner, whole, ROLLOUT.steps(9, 4), told(), FAST)
    window = replace(
        whole,
        codes=tuple(each[4:] for each in whole.codes),
        state=whole.state[:, 4:],
        first=whole.first[4:],
    )
    made = plan_chunk(planner, window, ROLLOUT.steps(5), told()[4:], FAST, origin=4)
    for a, b in zip(expected.codes, made.codes, strict=True):
        assert torch.allclose(a[9:], b[5:], atol=1e-5)


def test_a_film_can_begin_without_a_past() -> None:
    empty = Hierarchy.empty(HEAD, GRID, 4)
    made = plan_chunk(tiny(), empty, ROLLOUT.steps(0), told(4), FAST)
    assert made.known(0, 0, 4) and made.known(1, 0, 4)


def test_what_is_not_known_cannot_be_read() -> None:
    step = RolloutStep(Span(0, 6, 7), (Span(1, 4, 6),))
    with pytest.raises(ValueError, match="latent frames 14 to 16 at level 1, which are neither"):
        denoise_step(tiny(), hierarchy(), step, told(), FAST, origin=10)


def test_the_seed_the_level_and_the_frame_decide_the_noise() -> None:
    here = step_noise(1, Span(0, 4, 5), (2, 3))
    assert torch.equal(here, step_noise(1, Span(0, 1, 2), (2, 3), origin=3))
    for other in (step_noise(2, Span(0, 4, 5), (2, 3)), step_noise(1, Span(1, 4, 5), (2, 3))):
        assert not torch.equal(here, other)


def test_guidance_leads_away_from_what_is_made_blind() -> None:
    planner, start = tiny(), hierarchy()
    step = next(ROLLOUT.steps(5))
    plain = denoise_step(planner, start, step, told(), FAST)[0]
    none = denoise_step(planner, start, step, told(), replace(FAST, guidance=1.0))[0]
    more = denoise_step(planner, start, step, told(), replace(FAST, guidance=2.0))[0]
    blind = denoise_step(planner, start, step, told(), replace(FAST, guidance=0.0))[0]
    other = denoise_step(
        planner,
        hierarchy().with_codes(1, 0, torch.zeros(5, 1, 8)),
        step,
        told() * 3,
        replace(FAST, guidance=0.0),
    )[0]
    assert torch.equal(plain, none)
    assert not torch.allclose(more, plain, atol=1e-4)
    assert torch.allclose(blind, other, atol=1e-3)  # neither the past nor the condition is told


def test_every_evaluation_is_reported_and_can_stop() -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        plan_chunk(tiny(), hierarchy(), ROLLOUT.steps(5), told(), FAST, report=stop)
    assert len(calls) == 4


@pytest.mark.parametrize("rollout", [FullResolution(4), Mirrored(Windows((1, 2)))])
def test_the_other_rollouts_are_planned_as_well(rollout: FullResolution | Mirrored) -> None:
    made = plan_chunk(tiny(), hierarchy(6), rollout.steps(6), told(14), FAST)
    assert made.known(0, 6, 6 + rollout.chunk)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="2 denoising steps or more, got 1"):
        Denoising(steps=1)
