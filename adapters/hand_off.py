"""The drift-resilient hand-off: a segment's last two anchors become the start of the next one.

A latent frame stands for one frame at the beginning of a clip and for several later on, so anchors
from the end of a segment are decoded and encoded anew (MMPL, arXiv 2508.03334; shared design
`macro-micro-planning.md`, 3.2). The VAE is causal, so the short clip of HandOff
(planning/macro.py) gives what the released code computes from clips of full length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.sd import VAE

    from ..planning.macro import HandOff


def handed_frames(vae: VAE, latents: Mapping[int, Tensor], hand_off: HandOff) -> Tensor:
    """The frames [n, height, width, 3] in 0..1 that the next segment begins with.

    `latents` are finished frames b c 1 h w of the earlier segment by id, in the VAE's space. Raises
    ValueError naming one that is missing.
    """
    missing = [i for i in hand_off.decoded if i not in latents]
    if missing:
        raise ValueError(f"a hand-off needs latent frame {missing[0]} of the segment before")
    clip = torch.cat([latents[i] for i in hand_off.decoded], dim=2)
    frames = vae.decode(clip)
    frames = frames.reshape(-1, *frames.shape[-3:])
    if len(frames) < hand_off.first + hand_off.frames:
        raise ValueError(
            f"a hand-off needs {hand_off.first + hand_off.frames} frames of the VAE, got "
            f"{len(frames)}: its frame grid is not that of the plan"
        )
    kept = frames[hand_off.first : hand_off.first + hand_off.frames]
    return kept[..., :3].clamp(0.0, 1.0).cpu()


def hand_over(vae: VAE, latents: Mapping[int, Tensor], hand_off: HandOff) -> Tensor:
    """The first latent frames b c k h w of the next segment, float32 on the CPU."""
    return vae.encode(handed_frames(vae, latents, hand_off)).float().cpu()
