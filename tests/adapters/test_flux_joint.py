"""Keyframes that stock Flux.1-dev makes together, against one sequence with an explicit mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from .joint_pairs import (
    GUIDANCE,
    picture,
    prompt,
    sample,
    sees_with_context,
    sharp_flux,
    slow_sample,
)
from .slow_flux import Pair, grid_ids

PAIRS = 3
LENGTHS = (7, 4, 9)
SIZES = ((4, 6), (2, 2), (8, 12))
"""Latent cells of three context keyframes."""

MODES = ("separate", "causal", "full")


@pytest.fixture(scope="session")
def family(comfy: Any) -> Any:
    from development.tiny_images import IMAGE_FAMILIES

    return IMAGE_FAMILIES["flux"]


@pytest.fixture
def model(family: Any) -> Any:
    return sharp_flux(family)


def prompts(family: Any, lengths: tuple[int, ...] = (7, 7, 7)) -> list[Any]:
    return [prompt(family, i, tokens) for i, tokens in enumerate(lengths)]


def keyframes(family: Any, captions: bool = True) -> list[Any]:
    """Context of three sizes; without captions the second one has none."""
    from throughline.adapters.flux_joint import ContextKeyframe

    return [
        ContextKeyframe(
            latent=picture(50 + i, *size),
            conditioning=prompt(family, 50 + i, 3 + i) if captions or i != 1 else None,
        )
        for i, size in enumerate(SIZES)
    ]


def slow_context(
    model: Any, context: list[Any], noise: float = 0.0, stretched: bool = True, time_step: float = 0
) -> list[Pair]:
    """The same context for the reference."""
    pairs = []
    for i, one in enumerate(context):
        latent = model.model.process_latent_in(one.latent)
        drawn = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5 + i))
        height, width = latent.shape[2] // 2, latent.shape[3] // 2
        text = torch.zeros(1, 0, 24)
        options: dict[str, Any] = {"pooled_output": torch.zeros(1, 16)}
        if one.conditioning is not None:
            text, options = one.conditioning[0]
        over = (4, 6) if stretched else None
        pairs.append(
            Pair(
                x=(1.0 - noise) * latent + noise * drawn,
                sigma=noise,
                text=text,
                pooled=options["pooled_output"],
                guidance=GUIDANCE,
                ids=grid_ids(height, width, over, time_step * (i - len(context))),
            )
        )
    return pairs


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("lengths", [(7, 7, 7), LENGTHS], ids=["one length", "three lengths"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_one_sequence_with_a_mask(
    mode: Any, lengths: tuple[int, ...], model: Any, family: Any
) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), prompts(family, lengths)
    made = sample(joint_keyframes(model, mode=mode), noise, join_prompts(texts))
    close(made, slow_sample(model, noise, texts, sees_with_context(mode, 0)))
    alone = slow_sample(model, noise, texts, sees_with_context("separate", 0))
    assert mode == "separate" or float((made - alone)[1].abs().max()) > 1e-3


@pytest.mark.parametrize("captions", [True, False], ids=["captions", "one without"])
@pytest.mark.parametrize("noise_level", [0.0, 0.2])
@pytest.mark.parametrize("mode", MODES)
def test_context_equals_one_sequence_with_a_mask(
    mode: Any, noise_level: float, captions: bool, model: Any, family: Any
) -> None:
    """Context of other sizes and of its own noise level, made once and kept, in every mode."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), prompts(family, LENGTHS)
    context = keyframes(family, captions)
    joint = joint_keyframes(
        model, mode=mode, context=context, context_noise=noise_level, context_seed=5
    )
    made = sample(joint, noise, join_prompts(texts))
    pairs = slow_context(model, context, noise_level)
    close(made, slow_sample(model, noise, texts, sees_with_context(mode, 3), pairs))
    without = slow_sample(model, noise, texts, sees_with_context(mode, 0))
    assert float((made - without).abs().amax((1, 2, 3)).min()) > 1e-3


@pytest.mark.parametrize(
    ("positions", "time_step"), [("native", 0.0), ("stretched", 10.0), ("native", 1.5)]
)
def test_places_of_the_keyframes(positions: Any, time_step: float, model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts, context = picture(1, rows=PAIRS), prompts(family), keyframes(family)
    settings = {"mode": "full", "context": context, "time_step": time_step}
    joint = joint_keyframes(model, positions=positions, **settings)
    made = sample(joint, noise, join_prompts(texts))
    pairs = slow_context(model, context, 0.0, positions == "stretched", time_step)
    sees = sees_with_context("full", 3)
    close(made, slow_sample(model, noise, texts, sees, pairs, time_step=time_step))
    usual = slow_sample(model, noise, texts, sees, slow_context(model, context))
    assert float((made - usual).abs().max()) > 1e-4


def test_separate_pictures_equal_runs_of_their_own(model: Any, family: Any) -> None:
    """With context, too: it is the same for a batch and for one picture."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts, context = picture(1, rows=PAIRS), prompts(family, LENGTHS), keyframes(family)
    steps = (1.0, 0.7, 0.3, 0.0)
    for given in ([], context):
        joint = joint_keyframes(model, mode="separate", context=given)
        together = sample(joint, noise, join_prompts(texts), sigmas=steps)
        for i in range(PAIRS):
            plain = joint if given else model
            close(together[i : i + 1], sample(plain, noise[i : i + 1], texts[i], sigmas=steps))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_causal_never_sees_later_pictures(cfg: float, model: Any, family: Any) -> None:
    """Another last picture, with another prompt, changes no bit of the earlier ones."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    joint = joint_keyframes(model, mode="causal", context=keyframes(family))
    noise, texts = picture(1, rows=PAIRS), prompts(family)
    other_noise = torch.cat((noise[:2], picture(9)))
    other_texts = [*texts[:2], prompt(family, 9)]
    steps, negative = (1.0, 0.7, 0.3, 0.0), prompt(family, 30)
    made = sample(joint, noise, join_prompts(texts), negative, cfg, steps)
    again = sample(joint, other_noise, join_prompts(other_texts), negative, cfg, steps)
    assert torch.equal(made[:2], again[:2])
    assert float((made[2] - again[2]).abs().max()) > 1e-3
    full = joint_keyframes(model, mode="full", context=keyframes(family))
    made = sample(full, noise, join_prompts(texts), negative, cfg, steps)
    again = sample(full, other_noise, join_prompts(other_texts), negative, cfg, steps)
    assert float((made[:2] - again[:2]).abs().max()) > 1e-4


def test_nothing_being_made_reaches_the_context(model: Any, family: Any) -> None:
    """What is kept of the context is the same in every step, whatever is made."""
    from throughline.adapters.flux_joint import joint_keyframes
    from throughline.adapters.flux_joint_calls import JOINT

    joint = joint_keyframes(model, mode="full", context=keyframes(family))
    cache = joint.model_options["transformer_options"][JOINT].cache
    kept = []
    for seed in (1, 2):
        sample(joint, picture(seed), prompt(family, seed), sigmas=(1.0, 0.5, 0.0))
        kept.append(
            {key: leaf.weight.clone() for key, leaf in cache.patcher.model.named_children()}
        )
        cache.view([])
    assert kept[0].keys() == kept[1].keys() and len(kept[0]) == 2
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_one_picture_without_context_is_the_plain_model(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import joint_keyframes

    noise, text = picture(1), prompt(family, 1)
    for mode in MODES:
        assert torch.equal(
            sample(joint_keyframes(model, mode=mode), noise, text), sample(model, noise, text)
        )
