"""What is remembered, by every form, against the code that the encoders are trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CHANNELS, LATENT_SIDE = 16, 8


@pytest.fixture(scope="module")
def demo(comfy: ModuleType) -> Any:
    """MODEL, CLIP and VAE of the demo."""
    from throughline.adapters.demo_models import load_demo_models

    return load_demo_models()


@pytest.fixture(scope="module")
def load(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`load(rate="2x2x2", stream="segment", ...)`: an encoder of random weights from a file;
    `cross` gives it an add-on for block 0."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline.adapters.encoders import load_encoder

    folder = tmp_path_factory.mktemp("encoders")

    def make(
        rate: str = "2x2x2", stream: str = "segment", lr_mode: str = "pixel", cross: bool = False
    ) -> Any:
        path = folder / f"{rate}_{stream}_{lr_mode}{'_cross' if cross else ''}.safetensors"
        write_tiny_encoder(
            path,
            rate=rate,
            inner_dim=192,
            caption_dim=128,
            cross_attention={0: 0.2} if cross else None,
            stream=stream,
            lr_mode=lr_mode,
        )
        return load_encoder(path)

    return make


@pytest.fixture(scope="module")
def new_memory(demo: Any, tiny: ModuleType) -> Callable[..., Any]:
    """`new_memory(form, *encoders, ...)`: an empty memory for the demo model, with a small VAE."""
    from throughline.adapters.cache import LatentCache
    from throughline.adapters.memory_value import Memory, empty_bank
    from throughline.memory.rates import Rate
    from throughline.planning.recall import RecallPolicy

    vae = tiny.tiny_wan_vae()

    def make(form: str, *encoders: Any, rate: str = "2x2x2", **changes: Any) -> Any:
        model = demo[0]
        stream = encoders[0].card.stream if encoders else "chain"
        base = {
            "bank": empty_bank(encoders),
            "form": form,
            "encoders": encoders,
            "rate": Rate.parse(rate),
            "window": 4,
            "vae": vae,
            "vae_digest": "small",
            "latent_format": model.get_model_object("latent_format"),
            "patch": (1, 2, 2),
            "dtype": torch.float32,
            "cache": LatentCache(),
            "policy": RecallPolicy(
                recent=True, pin_first_shot=True, latent_frames=0, stream=stream
            ),
        }
        return Memory(**{**base, **changes})

    return make


def clip(latent_frames: int = 6, seed: int = 0, **changes: Any) -> Any:
    """A clip of random latents of 64 x 64 pixels."""
    from throughline.adapters.memory_value import HistoryClip

    generator = torch.Generator().manual_seed(seed)
    shape = (1, CHANNELS, latent_frames, LATENT_SIDE, LATENT_SIDE)
    latents = torch.randn(shape, generator=generator)
    base = {"latents": latents, "title": "clip", "shot": 1, "start": 0, "pinned": False}
    return HistoryClip(**{**base, **changes})


def tensors(entry: Any) -> list[tuple[torch.Tensor, ...]]:
    """Low, fine and positions of every piece; an empty tensor for None."""
    return [
        tuple(torch.empty(0) if leaf is None else leaf.weight for leaf in (piece.low, piece.fine))
        + (piece.positions,)
        for piece in entry.pieces
    ]


@pytest.mark.parametrize("rate", ["2x2x2", "4x4x2"])
def test_tokens_are_those_of_the_training(demo: Any, load: Any, new_memory: Any, rate: str) -> None:
    from throughline.adapters.attach import injection_of
    from throughline.adapters.history import write_clip
    from throughline.memory.encoder import HistoryEncoder, as_tokens
    from throughline.memory.positions import memory_positions
    from throughline.memory.rates import Grid
    from throughline.training.memory_world import low_resolution_latents

    model, text, vae = demo
    encoder = load(rate)
    said = text.encode_from_tokens_scheduled(text.tokenize("a garden"))[0][0]
    given = clip(caption=said)
    memory = new_memory("encoder", encoder, vae=vae)
    written, _ = write_clip(memory, given)
    (piece,) = written.entry.pieces

    pixels = vae.decode(given.latents)[0].movedim(-1, 0)[None] * 2 - 1  # b t h w c -> b c t h w
    form = model.get_model_object("latent_format")
    with torch.no_grad():
        low = low_resolution_latents(vae.first_stage_model.float(), pixels, encoder.card.rate, 6)
        low = form.process_in(low)
        plain = HistoryEncoder(encoder.card.config)
        plain.load_state_dict(encoder.encoder.state_dict())
        latents = form.process_in(given.latents)
        project = partial(injection_of(model).project, model.model.diffusion_model)
        trained = plain(latents, low, project, said).tokens
        ours = as_tokens(project(piece.low.weight[None].float())) + piece.fine.weight
    assert torch.allclose(piece.low.weight, low[0], atol=1e-3)
    assert torch.allclose(ours, trained, atol=1e-3)
    assert piece.fine.weight.abs().mean() > 0.01
    grid = Grid(6, 4, 4)
    assert torch.equal(piece.positions, memory_positions(grid, encoder.card.rate, "ceil"))


def test_the_caption_is_read_only_where_it_fits(load: Any, new_memory: Any) -> None:
    from throughline.adapters.history import write_clip

    memory = new_memory("encoder", load())

    def fine(caption: torch.Tensor | None) -> torch.Tensor:
        return write_clip(memory, clip(caption=caption))[0].entry.pieces[0].fine.weight

    without = fine(None)
    assert torch.equal(fine(torch.ones(1, 4, 64)), without)
    assert not torch.allclose(fine(torch.ones(1, 4, 128)), without, atol=1e-4)


@pytest.mark.parametrize("lr_mode", ["pixel", "latent"])
@pytest.mark.parametrize("rate", ["2x2x2", "2x2x4"])
@pytest.mark.parametrize("lengths", [(3, 4), (1, 2, 1), (4, 2)], ids=str)
def test_a_take_in_parts_is_remembered_as_a_whole(
    load: Any, new_memory: Any, lr_mode: str, rate: str, lengths: tuple[int, ...]
) -> None:
    """`chain`: after the last part the bank holds what one clip gives, to 1e-4."""
    from throughline.adapters.history import HistoryWriter, write_clip

    memory = new_memory("encoder", load(rate, "chain", lr_mode, cross=True))
    whole = clip(sum(lengths))
    frames = memory.vae.decode(whole.latents)[0]
    whole = replace(whole, frames=frames)
    parts, first = [], 0
    for length in lengths:
        handed = min(1, first)
        part = replace(
            whole,
            latents=whole.latents[:, :, first - handed : first + length],
            frames=frames[4 * (first - handed) : 4 * (first + length - 1) + 1],
            start=first - handed,
            handed=handed,
            continues=first > 0,
        )
        parts.append(part)
        first += length
    writer = HistoryWriter(memory, parts.__getitem__)
    for index in range(len(parts)):  # as a film is made: each part when it is there
        bank = writer.bank(range(index + 1))
    expected = write_clip(memory, whole)[0].entry
    filled = [entry for entry in bank.entries if entry.pieces]  # all may wait for the next part
    joined = [torch.cat(parts) for parts in zip(*map(_flat, filled), strict=True)]
    wanted = _flat(expected)
    assert all(
        torch.allclose(left, right, atol=1e-4) for left, right in zip(joined, wanted, strict=True)
    )
    late = HistoryWriter(memory, parts.__getitem__)  # as a film is resumed
    resumed = late.bank(range(len(parts)))
    assert [p.key for e in resumed.entries for p in e.pieces] == [
        p.key for e in bank.entries for p in e.pieces
    ]


def _flat(entry: Any) -> tuple[torch.Tensor, ...]:
    """Low cells, fine tokens, hidden states and absolute positions of an entry, one row each."""
    start = torch.tensor([float(entry.start), 0.0, 0.0])
    lows = [piece.low.weight.movedim(1, 0).flatten(1) for piece in entry.pieces]
    fines = [piece.fine.weight for piece in entry.pieces]
    places = [piece.positions + start for piece in entry.pieces]
    hidden = [piece.hidden.weight for piece in entry.pieces]
    return torch.cat(lows), torch.cat(fines), torch.cat(hidden), torch.cat(places)


def test_a_clip_is_encoded_and_held_once(
    load: Any, new_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.adapters import history, pieces

    memory = new_memory("encoder", load())
    one = history.remember(memory, [clip()])
    monkeypatch.setattr(pieces, "run_encoder", None)
    monkeypatch.setattr(pieces, "picture_latents", None)
    two = history.remember(memory, [clip()])
    left, right = (bank.entries[0].pieces[0] for bank in (one.bank, two.bank))
    assert left.fine.weight.data_ptr() == right.fine.weight.data_ptr()
    assert left.low.weight.data_ptr() == right.low.weight.data_ptr()


def test_two_encoders_add_up(load: Any, new_memory: Any) -> None:
    from throughline.adapters.history import remember

    memory = remember(new_memory("encoder", load("2x2x2"), load("4x4x2")), [clip()])
    assert [piece.form for piece in memory.bank.entries[0].pieces] == [
        "encoder 2x2x2",
        "encoder 4x4x2",
    ]
    assert memory.bank.tokens == 3 * 4 + 3 * 1


@pytest.mark.parametrize("stream", ["segment", "chain"])
def test_hidden_states_are_kept_for_the_add_on_alone(
    load: Any, new_memory: Any, stream: str
) -> None:
    """In token order: what the encoder makes of them are the fine tokens beside them."""
    from throughline.adapters.history import remember

    plain = remember(new_memory("encoder", load(stream=stream)), [clip()])
    assert [piece.hidden for piece in plain.bank.entries[0].pieces] == [None]
    assert len(plain.cache) == 2  # low and fine, as ever
    assert plain.cross_attention(plain.bank) is None

    encoder = load(stream=stream, cross=True)
    memory = remember(new_memory("encoder", encoder), [clip()])
    (piece,) = memory.bank.entries[0].pieces
    assert piece.hidden.weight.shape == (piece.tokens, 16)
    network = encoder.encoder
    with torch.no_grad():
        tokens = piece.hidden.weight @ network.proj.weight.flatten(1).T + network.proj.bias
    torch.testing.assert_close(network.gate * tokens, piece.fine.weight, atol=1e-5, rtol=1e-5)
    assert memory.cross_attention(memory.bank) is encoder.cross_attention
    assert f"{piece.key}-hidden" in memory.cache
    held = dict(memory.view(memory.bank).model.named_parameters())
    assert f"entry_{piece.key}-hidden.weight" in held


def test_an_add_on_reads_its_own_encoder_alone(load: Any, new_memory: Any, demo: Any) -> None:
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.history import remember
    from throughline.adapters.memory_value import one_cross_attention

    with_add_on, without = load("2x2x2", cross=True), load("4x4x2")
    memory = remember(new_memory("encoder", without, with_add_on), [clip(), clip(seed=1, start=6)])
    bank = memory.bank
    model = attach_memory(demo[0], bank, cross_attention=memory.cross_attention(bank))
    hidden = torch.cat([entry.pieces[1].hidden.weight for entry in bank.entries])
    assert [entry.pieces[0].hidden for entry in bank.entries] == [None, None]
    (patcher,) = model.get_nested_additional_models()
    key = hidden @ with_add_on.cross_attention["xattn.0.k.weight"].T
    torch.testing.assert_close(patcher.model.get_parameter("0_k.weight"), key)
    one_cross_attention(memory.encoders)
    with pytest.raises(ValueError, match="got 2x2x2_segment_.*_cross.* and 4x4x2_segment_.*_cross"):
        one_cross_attention((with_add_on, load("4x4x2", cross=True)))


def test_nothing_of_the_add_on_is_left(load: Any, new_memory: Any) -> None:
    """A bank without pieces of its encoder is read as if there were none."""
    from throughline.adapters.history import remember

    memory = remember(new_memory("encoder", load(cross=True), load("4x4x2")), [clip()])
    (entry,) = memory.bank.entries
    rest = replace(memory.bank, entries=(replace(entry, pieces=entry.pieces[1:]),))
    assert memory.cross_attention(rest) is None
    assert memory.cross_attention(memory.bank) is not None


def test_small_pictures_need_no_weights(new_memory: Any) -> None:
    from throughline.adapters.history import remember

    memory = remember(new_memory("low", rate="4x4x2"), [clip()])
    (piece,) = memory.bank.entries[0].pieces
    assert (piece.form, piece.fine, memory.bank.trained) == ("low 4x4x2", None, False)
    assert piece.low.weight.shape == (CHANNELS, 3, 2, 2)


def test_a_window_keeps_the_newest_and_anchors(new_memory: Any) -> None:
    from throughline.adapters.history import remember

    clips = [clip(3, 0, pinned=True), clip(3, 1, start=3), clip(3, 2, start=6)]
    memory = remember(new_memory("window"), clips)
    anchor, recent = memory.bank.entries
    form = memory.latent_format
    assert (anchor.start, anchor.latent_frames, recent.start, recent.stop) == (0, 3, 5, 9)
    assert torch.equal(anchor.pieces[0].low.weight, form.process_in(clips[0].latents)[0, :, :1])
    film = torch.cat([clips[1].latents[:, :, 2:], clips[2].latents], dim=2)
    assert torch.equal(recent.pieces[0].low.weight, form.process_in(film)[0])
    assert recent.tokens == 4 * 16


def test_framepack_keeps_older_frames_smaller(new_memory: Any) -> None:
    from throughline.adapters.history import remember
    from throughline.memory.packing import PatchPacker
    from throughline.memory.rates import Rate

    given = clip(9)
    memory = remember(new_memory("framepack"), [given])
    pieces = memory.bank.entries[0].pieces
    assert [piece.form for piece in pieces] == [
        "framepack 4x4x4",
        "framepack 2x2x2",
        "framepack 1x1x1",
    ]
    # 6 frames in two cells of 4x4x4, 2 in one moment of 2 x 2, 1 whole
    assert [piece.tokens for piece in pieces] == [2, 4, 16]
    weight = torch.randn(8, CHANNELS, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    packer = PatchPacker(CHANNELS, 8, Rate(4, 4, 4))
    packer.tile(weight, None)
    latents = memory.latent_format.process_in(given.latents)
    low = pieces[0].low.weight[None]
    projected = torch.nn.functional.conv3d(low, weight, stride=(1, 2, 2)).flatten(2)
    assert torch.allclose(projected.transpose(1, 2), packer(latents[:, :, :6]), atol=1e-4)


def test_other_sizes_are_refused(new_memory: Any) -> None:
    from throughline.adapters.history import remember

    odd = clip(2, latents=torch.zeros(1, CHANNELS, 2, 4, 6), title="reference 2")
    with pytest.raises(ValueError, match=r"one size, reference 2 has 48 x 32 pixels .* 64 x 64"):
        remember(new_memory("window"), [clip(2), odd])


def test_a_clip_without_new_frames_is_refused(new_memory: Any) -> None:
    from throughline.adapters.history import remember

    with pytest.raises(ValueError, match=r"history must be 1 latent frame or longer, clip has 0"):
        remember(new_memory("low"), [clip(0)])


def test_encoders_of_two_rope_modes_are_refused(load: Any) -> None:
    from throughline.adapters.memory_value import empty_bank

    one = load()
    other = replace(one, card=replace(one.card, rope_mode="history_first", name="b"))
    with pytest.raises(ValueError, match=r"one rope mode, 2x2x2_segment.* and b were trained"):
        empty_bank((one, other))


@pytest.mark.parametrize(
    ("changes", "model", "complaint"),
    [
        ({}, "wan_t2v", "of width 192, got a model .WAN21. of width 48"),
        ({}, "wan_ti2v", "of latent channels 16, got a model .WAN22. of latent channels 48"),
        ({"base": "hunyuanvideo"}, "wan_t2v", "for hunyuanvideo, got a model of class WAN21"),
        ({}, "hunyuan_replace", "for throughline-demo, got a model of class HunyuanVideo"),
        ({"inner_dim": 48, "patch": (1, 1, 1)}, "wan_t2v", r"patch \(1, 1, 1\).* \(1, 2, 2\)"),
    ],
)
def test_the_encoder_of_another_model_is_named(
    load: Any, tiny: ModuleType, changes: dict[str, Any], model: str, complaint: str
) -> None:
    from throughline.adapters.encoders import check_fits

    card = replace(load().card, **changes)
    with pytest.raises(ValueError, match=rf"^encoder 2x2x2_segment_pixel.*{complaint}"):
        check_fits(card, tiny.FAMILIES[model].model())


def test_the_demo_encoder_fits_the_demo_model(load: Any, demo: Any) -> None:
    from throughline.adapters.encoders import check_fits

    check_fits(load().card, demo[0])


def test_weights_follow_cores_management(load: Any, tmp_path: Path) -> None:
    import comfy.model_management

    loaded = load()
    assert loaded.patcher.model_size() > 0
    comfy.model_management.load_models_gpu([loaded.patcher])
    held = [model.model for model in comfy.model_management.current_loaded_models]
    assert loaded.patcher in held
    comfy.model_management.unload_all_models()


def test_a_trained_packing_brings_its_own_kernels(new_memory: Any, tmp_path: Path) -> None:
    """Its rates by its kernels, the others by the model's own projection."""
    from throughline.adapters.encoders import load_encoder
    from throughline.adapters.history import remember
    from throughline.memory.packing import PatchPacker
    from throughline.memory.rates import Rate
    from throughline.memory.weight_format import write_encoder_file

    packer = PatchPacker(CHANNELS, 192, Rate(4, 4, 4))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in packer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    state = {f"packer.4x4x4.{key}": value for key, value in packer.state_dict().items()}
    metadata = {
        "kind": "packing",
        "base": "throughline-demo",
        "in_channels": str(CHANNELS),
        "inner_dim": "192",
        "rate": "4x4x4",
        "grid_round": "ceil",
        "rope_mode": "history_negative",
        "causal": "1",
        "lr_mode": "latent",
        "memory_t0": "1",
        "segment_latents": "6",
        "fps": "8",
    }
    path = tmp_path / "packing.safetensors"
    write_encoder_file(path, state, metadata)
    given = clip(9)
    memory = remember(new_memory("framepack", encoders=(load_encoder(path),)), [given])
    older, newer, newest = memory.bank.entries[0].pieces
    latents = memory.latent_format.process_in(given.latents)
    with torch.no_grad():
        expected = packer(latents[:, :, :6])[0]
    assert torch.allclose(older.fine.weight, expected, atol=1e-4)
    assert older.low is None
    assert newer.fine is None and newest.fine is None
