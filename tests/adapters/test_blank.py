"""Blank clips: what a model sees where nothing is known is what core's own nodes encode."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def test_a_start_image_is_encoded_as_core_does_it(comfy: ModuleType) -> None:
    from comfy_extras.nodes_wan import WanImageToVideo

    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.adapters.blank import BlankClips
    from throughline.adapters.wan import WanImage

    vae, tiny = tiny_wan_vae(), FAMILIES["wan22_i2v"]
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    positive, _, _ = WanImageToVideo.execute(
        tiny.conditioning(1), tiny.conditioning(2), vae, 32, 32, 13, 1, image
    ).args
    latent = torch.zeros(1, 16, 4, 4, 4)
    latent[:, :, :1] = vae.encode(image)
    inputs = WanImage().prepare(
        tiny.model(),
        BlankClips(vae, image),
        tiny.conditioning(1),
        tiny.conditioning(2),
        latent,
        1,
    )
    ours, theirs = inputs.positive[0][1], positive[0][1]
    assert torch.allclose(
        ours["concat_latent_image"], theirs["concat_latent_image"], atol=1e-5, rtol=0
    )
    assert torch.equal(ours["concat_mask"], theirs["concat_mask"].to(ours["concat_mask"]))


def test_behind_a_tail_is_grey(comfy: ModuleType) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.blank import BlankClips

    vae = tiny_wan_vae()
    blanks, latent = BlankClips(vae), torch.zeros(1, 16, 3, 2, 4)
    grey = vae.encode(torch.full((9, 16, 32, 3), 0.5))
    assert torch.equal(blanks.grey(latent), grey)
    assert torch.equal(blanks.behind_start(latent), grey)
    blanks.grey(latent).zero_()
    assert torch.equal(blanks.grey(latent), grey), "a caller's copy is its own"


@pytest.mark.parametrize("known", [0, 1, 5, 6])
@pytest.mark.parametrize("latent_frames", [5, 6, 7, 9, 12])
def test_a_clip_continued_where_the_vae_has_settled_is_the_whole_one(
    comfy: ModuleType, known: int, latent_frames: int
) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.blank import BlankClips

    vae = tiny_wan_vae()
    start = torch.rand(known, 16, 16, 3, generator=torch.Generator().manual_seed(known))
    blanks = BlankClips(vae, start if known else None)
    grey = torch.full((4 * latent_frames - 3 - known, 16, 16, 3), 0.5)
    whole = vae.encode(torch.cat((start, grey)))
    assert torch.equal(blanks.behind_start(torch.zeros(1, 16, latent_frames, 2, 2)), whole)


def test_a_vae_that_does_not_settle_encodes_the_whole_clip(comfy: ModuleType) -> None:
    from throughline.adapters.blank import BlankClips

    vae = Counting(lambda clip: torch.arange(len(clip) // 4 + 1.0).view(1, 1, -1, 1, 1))
    latent = torch.zeros(1, 1, 9, 1, 1)
    assert torch.equal(BlankClips(vae).grey(latent).flatten(), torch.arange(9.0))
    assert vae.frames == [17, 33]


class Counting:
    """What BlankClips asks of a VAE; `frames` are the lengths of the clips it was given."""

    def __init__(self, encode: Any) -> None:
        self._encode, self.frames = encode, []

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        self.frames.append(len(clip))
        return self._encode(clip)

    def spacial_compression_encode(self) -> int:
        return 8

    def temporal_compression_decode(self) -> int:
        return 4


def kept_files(folder: Path, vae: str = "a vae") -> Any:
    from throughline.adapters.blank import ClipFiles
    from throughline.runs.atomic import write_atomic

    return ClipFiles(folder, vae, write_atomic)


def test_a_later_run_finds_the_clips_of_an_earlier_one(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.adapters.blank import BlankClips

    latent = torch.zeros(1, 1, 3, 1, 1)
    start = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1))

    def clips(vae: str = "a vae", given: torch.Tensor = start) -> list[int]:
        counting = Counting(lambda clip: clip.mean(dim=(1, 2, 3))[::4].view(1, 1, -1, 1, 1))
        blanks = BlankClips(counting, given, kept_files(tmp_path, vae))
        assert float(blanks.grey(latent).mean()) == 0.5
        first = float(blanks.behind_start(latent).flatten()[0])
        assert first == pytest.approx(float(given.mean()), abs=1e-6)
        return counting.frames

    assert clips() == [9, 9]
    assert clips() == []
    assert clips(given=start / 2) == [9]
    assert clips(vae="another") == [9, 9]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    assert clips() == [9, 9]


def test_only_the_newest_clips_stay(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.adapters.blank import KEPT_CLIPS

    files = kept_files(tmp_path)
    for number in range(KEPT_CLIPS + 2):
        files.keep(number, torch.full((1,), float(number)))
        time.sleep(0.02)  # file systems tell times apart no finer than this
    assert len(list(tmp_path.iterdir())) == KEPT_CLIPS
    assert files.find(0) is None and files.find(1) is None
    assert files.find(KEPT_CLIPS + 1) is not None


def test_a_full_disk_costs_the_next_encoding_only(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.adapters.blank import ClipFiles
    from throughline.runs.atomic import disk_full

    def full(path: Path, data: bytes) -> None:
        raise disk_full(path, len(data))

    files = ClipFiles(tmp_path, "a vae", full)
    files.keep("a clip", torch.zeros(1))
    assert files.find("a clip") is None
