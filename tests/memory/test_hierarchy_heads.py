"""Learned heads: whole codes, frame by frame, on grids of any size; and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from throughline.memory.hierarchy import HierarchyGrid, HierarchyHead, pyramid
from throughline.memory.hierarchy_format import (
    HeadCard,
    PlannerCard,
    read_head_file,
    read_planner_file,
    write_head_file,
    write_planner_file,
)
from throughline.memory.hierarchy_heads import (
    PLAIN_TOKENS,
    HeadConfig,
    LearnedHead,
    attend,
    build_head,
    head_loss,
)
from throughline.memory.hierarchy_planner import HierarchyPlanner, PlannerConfig

KINDS = ("tokens", "convolution")
ODD = (5, 7)


def tiny(kind: str, levels: int = 2) -> LearnedHead:
    """A head with random weights large enough to matter."""
    head = build_head(
        HeadConfig(kind=kind, channels=4, levels=levels, code=6, width=16, blocks=1, heads=2)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return head.eval()


def latents(frames: int = 3, size: tuple[int, int] = ODD) -> torch.Tensor:
    return torch.randn(1, 4, frames, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), ODD, (6, 10)])
@torch.no_grad()
def test_codes_and_latents_have_the_shapes_of_the_grid(kind: str, size: tuple[int, int]) -> None:
    head: HierarchyHead = tiny(kind)
    grid, x = HierarchyGrid(*size, 2), latents(size=size)
    codes = head.encode(x)
    assert [tuple(each.shape) for each in codes] == [
        (1, 3, grid.cells(0), 16),
        (1, 3, grid.cells(1), 6),
    ]
    assert torch.equal(head.decode(0, codes[0], grid), x)
    assert head.decode(1, codes[1], grid).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_codes_are_bounded_and_frames_do_not_see_each_other(kind: str) -> None:
    head, x = tiny(kind), 100 * latents(frames=4)
    first = torch.tensor([True, False, False, True])
    order = [3, 1, 0, 2]
    codes, moved = head.encode(x, first), head.encode(x[:, :, order], first[order])
    assert codes[1].abs().max() <= 1
    for a, b in zip(moved, codes, strict=True):
        assert torch.allclose(a, b[:, order], atol=1e-5)
    back = head.decode(1, codes[1], HierarchyGrid(*ODD, 2), first)
    again = head.decode(1, moved[1], HierarchyGrid(*ODD, 2), first[order])
    assert torch.allclose(again, back[:, :, order], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_single_pictures_are_told(kind: str) -> None:
    head, x = tiny(kind), latents(frames=1)
    marked = head.encode(x, torch.tensor([True]))[1]
    assert not torch.allclose(marked, head.encode(x)[1])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_many_frames_are_worked_on_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = tiny(kind), latents(frames=5)
    whole = head.encode(x)[1]
    monkeypatch.setattr("throughline.memory.hierarchy_heads.FRAMES_AT_ONCE", 2)
    assert torch.allclose(head.encode(x)[1], whole, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_every_weight_and_learns(kind: str) -> None:
    head = build_head(HeadConfig(kind=kind, channels=4, levels=3, code=6, width=16, blocks=1))
    frames = latents(4, (8, 8))[0].transpose(0, 1)
    first = torch.tensor([True, False, False, False])
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    losses, reached = [], set()
    for step in range(60):
        loss = head_loss(head, frames, first, 1 + step % 2)
        optimiser.zero_grad()
        loss.backward()
        if step >= 4:  # adaLN-Zero lets nothing through in the first steps
            reached |= {
                name
                for name, p in head.named_parameters()
                if p.grad is not None and bool(p.grad.any())
            }
        optimiser.step()
        losses.append(loss.item())
    assert reached == {name for name, _ in head.named_parameters()}
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_loss_weighs_every_drawn_level_alike() -> None:
    head = tiny("tokens")
    frames = latents(2, (8, 8))[0].transpose(0, 1)
    first = torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        codes = head.encode_frames(frames, first, HierarchyGrid(8, 8, 2))[1]
        drawn = head.decode_frames(1, codes, first, HierarchyGrid(8, 8, 2))
        truth = pyramid(frames, HierarchyGrid(8, 8, 2))
        errors = [(a - b).square().mean() for a, b in zip(drawn, truth, strict=True)]
        edges = drawn[0] - truth[0]
        slopes = edges.diff(dim=-1).abs().mean() + edges.diff(dim=-2).abs().mean()
        expected = sum(errors) + 0.1 * slopes
        assert torch.isclose(head_loss(head, frames, first, 1), expected, rtol=1e-5)


def test_both_ways_to_attend_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, 2, 2, PLAIN_TOKENS + 1, 8, generator=generator)
    mask = torch.rand(2, 1, 1, PLAIN_TOKENS + 1, generator=generator) < 0.5
    long = attend(q, k, v, mask)
    weights = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    assert torch.allclose(long, weights @ v, atol=1e-5)
    short = attend(q[:, :, :5], k[:, :, :5], v[:, :, :5])
    assert torch.allclose(
        short,
        torch.nn.functional.scaled_dot_product_attention(q[:, :, :5], k[:, :, :5], v[:, :, :5]),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 1}, "two levels or more"),
        ({"width": 20}, "multiple of four times"),
        ({"kind": "wavelets"}, "kind of a head must be one of tokens, convolution"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(HeadConfig(**{"width": 16, "heads": 2, **changes}))


# --- files


def head_file(folder: Path, kind: str = "tokens") -> Path:
    head = tiny(kind)
    path = folder / "head.safetensors"
    card = HeadCard(head.config, "Wan21", "a head", "none")
    write_head_file(path, {k: v.bfloat16() for k, v in head.state_dict().items()}, card)
    return path


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_head_comes_back_and_goes_by_its_weights(tmp_path: Path, kind: str) -> None:
    head, card = read_head_file(head_file(tmp_path, kind))
    assert (card.latent_format, card.config) == ("Wan21", tiny(kind).config)
    assert torch.allclose(head.encode(latents())[1], tiny(kind).encode(latents())[1], atol=0.1)
    again, _ = read_head_file(head_file(tmp_path, kind))
    assert len(head.name) == 32 and head.name == again.name
    assert not any(p.requires_grad for p in head.parameters())


def test_a_planner_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    planner = HierarchyPlanner(PlannerConfig((16, 6), condition=5, width=16, blocks=1, heads=2))
    planner.gain.copy_(torch.tensor([1.0, 2.5]))
    path = tmp_path / "planner.safetensors"
    card = PlannerCard(planner.config, "abc", "Wan21", "coarse to fine", (1, 4), "poses")
    write_planner_file(path, planner.state_dict(), card)
    read, said = read_planner_file(path)
    assert said == card
    assert all(torch.equal(a, planner.state_dict()[k]) for k, a in read.state_dict().items())


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    path = head_file(tmp_path)
    with pytest.raises(ValueError, match=r"head.safetensors: metadata 'format' must be"):
        read_planner_file(path)
    with pytest.raises(ValueError, match="gone.safetensors: no such file"):
        read_head_file(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="only safetensors files are read"):
        read_head_file(tmp_path / "head.ckpt")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        read_head_file(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "must be a JSON object"),
        ("{}", "must say config, got nothing"),
        ('{"config": {"kind": "tokens"}, "latent_format": 3}', "latent_format is of the wrong"),
        ('{"config": {"kind": "x"}, "latent_format": "Wan21"}', "kind is of the wrong kind"),
        ('{"config": {"width": "9"}, "latent_format": "Wan21"}', "width is of the wrong kind"),
        ('{"config": {"levels": 1}, "latent_format": "Wan21"}', "two levels or more"),
        ('{"config": {}, "latent_format": "Wan21", "x": 1}', "foreign entry x"),
        ('{"config": {}, "latent_format": "Wan21", "version": 2}', "update Throughline"),
        ('{"config": {}, "latent_format": "Wan21"}', "lacks tensor code_in.bias"),
    ],
)
def test_metadata_that_do_not_fit_are_named(tmp_path: Path, config: str, message: str) -> None:
    import safetensors.torch

    path = tmp_path / "head.safetensors"
    metadata = {"format": "throughline-hierarchy-head", "config": config}
    safetensors.torch.save_file({"patch_in.weight": torch.zeros(1)}, str(path), metadata)
    with pytest.raises(ValueError, match=message) as error:
        read_head_file(path)
    assert str(error.value).startswith("head.safetensors: ")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    head = tiny("tokens")
    card, state = HeadCard(head.config, "Wan21"), head.state_dict()
    path = tmp_path / "head.safetensors"
    for wrong, message in (
        ({"extra": torch.zeros(1)}, "has the foreign tensor extra"),
        ({"code_in.bias": torch.zeros(3)}, r"code_in.bias must be \[16\] .* got \[3\]"),
        ({"code_in.bias": torch.full((16,), torch.nan)}, "must hold finite"),
        ({"code_in.bias": torch.zeros(16, dtype=torch.int64)}, "must hold finite floating"),
    ):
        write_head_file(path, {**state, **wrong}, card)
        with pytest.raises(ValueError, match=message):
            read_head_file(path)
