"""Packed context on Wan: what is given is what was trained, and what does not belong is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from throughline.planning.packed import step_at
from throughline.planning.rollout import CoarseToFine, Span, Windows

from .memory_banks import call_model

ROLLOUT = CoarseToFine(Windows((2, 4, 8)))
SIDE, FILM = 8, 24


@pytest.fixture(scope="module")
def shipped(comfy: ModuleType) -> Any:
    """The demo's MODEL, as its loader gives it."""
    from throughline.adapters.demo_models import load_demo_models

    return load_demo_models()[0]


def called(model: Any, *args: Any) -> Tensor:
    """The network's output, the patcher's LoRA on its weights."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    return call_model(model, *args)


def film_latents(channels: int = 16, frames: int = FILM) -> Tensor:
    """Normalised latents of a film."""
    return torch.randn(1, channels, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def timeline_of(model: Any, latents: Tensor, planned_from: int = FILM) -> Any:
    """The codes of a film; from latent frame `planned_from` on level 0 is not known yet."""
    from throughline.adapters.cache import LatentCache
    from throughline.adapters.hierarchy_value import Timeline
    from throughline.adapters.hierarchy_weights import pooled_head
    from throughline.memory.hierarchy import HierarchyGrid

    head = pooled_head(latents.shape[1], 3)
    form = model.get_model_object("latent_format")
    empty = Timeline((), HierarchyGrid(SIDE, SIDE, 3), head, form, LatentCache())
    window = head.encode(latents, torch.zeros(latents.shape[2], dtype=torch.bool))
    state = window.state.clone()
    state[0, planned_from:] = 0
    return empty.written(0, replace(window, state=state))


def context_tokens(
    trainer: Any, timeline: Any, step: Any, latents: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens and positions as the training makes them, from the film's latents."""
    from throughline.memory.packed_context import cell_positions
    from throughline.training.packed_data import PackedTensors

    context, positions = [], []
    for span in step.context:
        part = latents[:, :, span.start : span.stop]
        head = timeline.head.head
        context.append(part if span.level == 0 else head.encode(part)[span.level])
        places = cell_positions(timeline.grid, span.level, span.frames)
        positions.append(places + torch.tensor([float(span.start), 0.0, 0.0]))
    given = PackedTensors(latents, torch.empty(0), tuple(context), torch.cat(positions))
    return trainer.tokens(step, given, torch.device("cpu"), 1), given.positions[None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers
def test_exported_files_give_what_the_training_computed(
    shipped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of training on the demo model, exported, loaded by the loaders that nodes use."""
    accelerate = pytest.importorskip("accelerate")
    import comfy.sd
    import comfy.utils
    from safetensors.torch import save_file

    from throughline.adapters.demo_models import VIDEO_FILE
    from throughline.adapters.packed_context import attach_packed, load_packed
    from throughline.memory.hierarchy import PooledHead
    from throughline.memory.hierarchy_format import PackedCard
    from throughline.training.checkpoints import trained_parameters
    from throughline.training.memory_data import StoryFolder
    from throughline.training.memory_model import WanMemoryModel, wan_from_comfy
    from throughline.training.memory_subject import Subject
    from throughline.training.packed_data import PackedTrainingConfig
    from throughline.training.packed_training import begin, export_packed, train

    latents = film_latents()
    save_file(
        {
            "latents": latents[0].unflatten(1, (4, 6)).transpose(0, 1).contiguous(),
            "text": torch.randn(4, 17, 128),
        },
        tmp_path / "story_000000.safetensors",
    )
    model, head = WanMemoryModel(wan_from_comfy(VIDEO_FILE)), PooledHead(16, 3)
    grey = torch.zeros(16, 6, SIDE, SIDE)
    config = PackedTrainingConfig(
        steps=2,
        batch=1,
        windows=ROLLOUT.windows.frames,
        lora_rank=4,
        warm_up=1,
        peak_learning_rate=1e-2,
        context_dropout=0.0,
    )
    data = StoryFolder(tmp_path)
    trainer = begin(Subject(model, data, grey, None), head, config)
    accelerator = accelerate.Accelerator(cpu=True)
    train(trainer, data, head, tmp_path / "run", config, accelerator, 1e9)
    values = {name: p.detach().bfloat16().float() for name, p in trained_parameters(trainer)}
    with torch.no_grad():
        for name, parameter in trained_parameters(trainer):
            parameter.copy_(values[name])  # files hold bfloat16
    card = PackedCard(trainer.embedder.config, "demo", head.name, config.windows)
    path, lora_path = export_packed(values, tmp_path, trainer, card, "demo", "{}")

    loaded, timeline = load_packed(path), timeline_of(shipped, latents)
    assert loaded.card is not None and loaded.card.lora == lora_path.name
    lora = comfy.utils.load_torch_file(str(lora_path), safe_load=True)
    dressed, _ = comfy.sd.load_lora_for_models(shipped, None, lora, 1.0, 0.0)
    step = step_at(ROLLOUT, 10, 2)
    assert {span.level for span in step.context} == {0, 1, 2}
    made, _ = attach_packed(dressed, loaded, timeline, step)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((1, 36, 2, SIDE, SIDE), generator=generator)
    text = torch.randn((1, 17, model.text_dim), generator=generator)
    time = torch.tensor([600.0])
    found = called(made, x, time, text)
    trainer.eval()
    with torch.no_grad():
        tokens, places = context_tokens(trainer, timeline, step, latents)
        start = torch.tensor([float(step.target.start)])
        wanted = model(x, time, text, tokens, places, start)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0.0)
    without = called(dressed, x, time, text)
    assert float((found - without).abs().max()) > 0.01
    assert float((called(shipped, x, time, text) - without).abs().max()) > 1e-3


def test_the_tokens_are_those_of_the_step_and_gone_with_the_clone(shipped: Any) -> None:
    from throughline.adapters.memory_stream import ATTACHED
    from throughline.adapters.packed_context import attach_packed, untrained_packed

    latents = film_latents()
    timeline = timeline_of(shipped, latents, planned_from=9)
    packed = untrained_packed(shipped, timeline)
    step = step_at(ROLLOUT, 10, 2)
    made, seen = attach_packed(shipped, packed, timeline, step)
    # level 0 before the step is not known from frame 9 on
    assert [span for span in step.context if span.level == 0] == [Span(0, 8, 10)]
    assert [span for span in seen.context if span.level == 0] == [Span(0, 8, 9)]
    (memory,) = made.model_options["transformer_options"][ATTACHED]
    assert memory.segment_start == 10
    assert memory.bank.tokens == sum(
        span.frames * timeline.grid.cells(span.level) for span in seen.context
    )
    assert {entry.start for entry in memory.bank.entries} == {span.start for span in seen.context}
    low = next(e for e in memory.bank.entries if e.pieces[0].low is not None).pieces[0].low
    assert torch.equal(low.weight, latents[0, :, 8:9])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((1, 36, 2, SIDE, SIDE), generator=generator)
    text, time = torch.randn((1, 17, 128), generator=generator), torch.tensor([600.0])
    before = call_model(shipped, x, time, text)
    assert call_model(made, x, time, text).shape == before.shape
    assert torch.equal(call_model(shipped, x, time, text), before)
    nothing, _ = attach_packed(shipped, packed, timeline, step, strength=0.0)
    assert torch.equal(call_model(nothing, x, time, text), before)
    alone, seen = attach_packed(shipped, packed, timeline, replace(step, context=()))
    assert seen.context == () and torch.equal(call_model(alone, x, time, text), before)


def test_what_does_not_belong_together_is_refused(shipped: Any, tmp_path: Path) -> None:
    from development.tiny_models import FAMILIES
    from throughline.adapters.packed_context import (
        CATEGORY,
        attach_packed,
        load_packed,
        untrained_packed,
    )
    from throughline.adapters.weight_folders import weight_path
    from throughline.memory.hierarchy_format import PackedCard, write_packed_file
    from throughline.memory.packed_context import PackedConfig, PackedEmbedder

    with pytest.raises(ValueError, match=r"packed_name must be a file in models/packed_context"):
        weight_path(CATEGORY, "../other.safetensors", "packed_name")
    timeline, step = timeline_of(shipped, film_latents()), step_at(ROLLOUT, 2, 2)

    def written(config: PackedConfig, head: str = "pooled") -> Any:
        path = tmp_path / f"{config.width}{head}{config.code_channels[1]}.safetensors"
        card = PackedCard(config, "demo", head, (2, 4, 8))
        write_packed_file(path, PackedEmbedder(config).state_dict(), card)
        return load_packed(path)

    width = shipped.model.diffusion_model.dim
    for packed, message in (
        (written(PackedConfig((64, 64, 64), 48)), f"width 48, got one of width {width}"),
        (written(PackedConfig((64, 64, 64), width), "other"), "of the head other, got a hierarchy"),
        (written(PackedConfig((64, 32, 32), width)), r"reads codes of \[64, 32, 32\] channels"),
    ):
        with pytest.raises(ValueError, match=message):
            attach_packed(shipped, packed, timeline, step)
    hunyuan = FAMILIES["hunyuan_replace"].model()
    with pytest.raises(ValueError, match="packed context enters Wan models only, got Hunyuan"):
        untrained_packed(hunyuan, timeline)
    with pytest.raises(ValueError, match="packed context without training reads pooled codes only"):
        head = replace(timeline.head, head=_Learned())
        untrained_packed(shipped, replace(timeline, head=head))


class _Learned:
    name, levels, code_channels = "learned", 3, (64, 32, 32)
