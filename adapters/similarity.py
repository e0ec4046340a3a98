"""How alike captions and pictures are: by CLIP, or caption to caption by any text encoder.

Text to picture needs both sides of one CLIP in its joint space. The picture side is
`CLIP_VISION.encode_image(...).image_embeds`. The text side is the pooled output behind CLIP's
`text_projection`, and there lie three traps, all of them silent in core (ComfyUI 0.30.0):

- CLIPs for SD1 and Flux are built to hand out the pooled output *without* the projection, which is
  as wide (`comfy/sd1_clip.py: SD1CheckpointClipModel`, `comfy/text_encoders/flux.py:
  FluxClipModel`). So the projected one is asked for here.
- The usual `clip_l.safetensors` has no `text_projection.weight`; the layer then keeps whatever the
  memory held, or zeros. Files saved by older versions of core hold the identity in its place.
- Text and picture encoders of two CLIPs may be equally wide or not.

A cosine of any of these is a number without a meaning, so what can be detected is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel
    from comfy.sd import CLIP

TOWERS = ("l", "g", "h")
"""Names of CLIP's text towers in core: `clip_l`, `clip_g` and `clip_h`, tokens `l`, `g`, `h`."""

PICTURE_MODEL = "clip_vision_model"
"""`model_type` of CLIP's picture side in core's configs; SigLIP and DINO have others."""

SMALLEST_NORM = 1e-6
"""A projection or a vector that is shorter is none at all: layers left at zero give exactly 0."""


FEWEST = 4
"""Of fewer vectors the mean is mostly these vectors; two become opposites (our choice)."""


class NoSharedSpace(ValueError):
    """Text and picture encoder that cannot be compared; says which is missing what."""


def check_joint_space(clip: CLIP, clip_vision: ClipVisionModel) -> str:
    """The name of the text tower that shares a space with the picture encoder.

    Raises NoSharedSpace naming what is wrong: a picture encoder that is not CLIP's, no text tower
    of CLIP, no tower of that width, or a projection that is missing.
    """
    width = picture_width(clip_vision)
    towers = text_towers(clip)
    if not towers:
        raise NoSharedSpace(
            f"clip has no text tower of CLIP ({type(clip.cond_stage_model).__name__}), so captions "
            "and pictures cannot be compared by it"
        )
    widths = {name: projection_width(tower) for name, tower in towers.items()}
    fitting = [name for name, found in widths.items() if found == width]
    if not fitting:
        listed = ", ".join(f"clip_{name} {found}" for name, found in widths.items())
        raise NoSharedSpace(
            f"clip_vision is {width} wide and clip is not ({listed}): they belong to different "
            "models; CLIP ViT-L goes with CLIP-L, CLIP ViT-bigG with CLIP-G"
        )
    check_projection(clip, fitting[0])
    return fitting[0]


def picture_width(clip_vision: ClipVisionModel) -> int:
    """Width of the joint space on the picture side. Raises NoSharedSpace where there is none."""
    kind = clip_vision.model_type
    if kind != PICTURE_MODEL:
        raise NoSharedSpace(f"clip_vision must be CLIP's to be compared with text, got {kind}")
    width = clip_vision.config.get("projection_dim")
    if width is None:
        raise NoSharedSpace("clip_vision has no projection into the space that text shares")
    return int(width)


def text_towers(clip: CLIP) -> dict[str, SDClipModel]:
    """CLIP's own text encoders in a loaded text encoder, by name; T5 and language models are not
    among them."""
    named = {name: getattr(clip.cond_stage_model, f"clip_{name}", None) for name in TOWERS}
    return {
        name: tower
        for name, tower in named.items()
        if isinstance(tower, SDClipModel) and isinstance(tower.transformer, CLIPTextModel)
    }


def projection_width(tower: SDClipModel) -> int:
    return int(tower.transformer.text_projection.out_features)


def check_projection(clip: CLIP, name: str) -> None:
    """Refuse a tower whose `text_projection.weight` was not in the file.

    The loader's own file is asked where it is known (safetensors only); else the weight itself:
    missing, not finite, zero and the identity are refused. Raises NoSharedSpace.
    """
    layer = text_towers(clip)[name].transformer.text_projection
    advice = (
        "load a CLIP file that has text_projection.weight, for instance the whole text encoder of "
        "CLIP ViT-L/14"
    )
    files = loaded_files(clip)
    width = layer.out_features
    if files and not any(holds_projection(file, width) for file in files):
        names = ", ".join(file.name for file in files)
        raise NoSharedSpace(f"clip_{name}: {names} has no text_projection.weight; {advice}")
    weight = layer.weight
    if weight is None or weight.is_meta:
        raise NoSharedSpace(f"clip_{name} has no text_projection.weight; {advice}")
    values = weight.detach().float()
    if not bool(torch.isfinite(values).all()) or float(values.norm()) < SMALLEST_NORM:
        raise NoSharedSpace(
            f"clip_{name}: text_projection.weight was never loaded (its norm is "
            f"{float(values.norm()):g}); {advice}"
        )
    if torch.equal(values, torch.eye(*values.shape, device=values.device)):
        raise NoSharedSpace(
            f"clip_{name}: text_projection.weight is the identity, which older versions of ComfyUI "
            f"saved where a file had none; {advice}"
        )


def loaded_files(clip: CLIP) -> tuple[Path, ...]:
    """The safetensors files that core's loader read this text encoder from; none where one of them
    is of another format or core does not say (`patcher.cached_patcher_init`, comfy/sd.py)."""
    made = getattr(clip.patcher, "cached_patcher_init", None)
    named = made[1][0] if made and made[1] else ()
    paths = [named] if isinstance(named, (str, Path)) else list(named or ())
    files = tuple(Path(path) for path in paths)
    readable = all(file.suffix in (".safetensors", ".sft") and file.is_file() for file in files)
    return files if readable else ()


def holds_projection(file: Path, width: int) -> bool:
    """Whether a file holds a text projection of that width, under any name core knows."""
    try:
        with safe_open(file, framework="pt") as opened:
            return any(
                "text_projection" in key
                and list(opened.get_slice(key).get_shape())[-2:] == [width, width]
                for key in opened.keys()  # noqa: SIM118 - it is no mapping
            )
    except (SafetensorError, OSError):
        return False


def text_vector(clip: CLIP, tower: str, text: str) -> Tensor:
    """The text in the joint space, [width] of length 1: projected pooled output of its first 75
    tokens, CLIP's own limit.

    Leaves the encoder's options as core sets them before every encoding. Raises NoSharedSpace for
    a vector without length.
    """
    tokens = clip.tokenize(text)
    clip.load_model(tokens)
    encoder = text_towers(clip)[tower]
    encoder.reset_clip_options()
    encoder.set_clip_options(
        {"projected_pooled": True, "execution_device": clip.patcher.load_device}
    )
    try:
        with comfy.model_management.cuda_device_context(clip.patcher.load_device):
            pooled = encoder.encode_token_weights(tokens[tower])[1]
    finally:
        encoder.reset_clip_options()
    return _unit(pooled[0], f"clip_{tower} gives nothing for {text[:40]!r}")


def picture_vector(clip_vision: ClipVisionModel, picture: Tensor) -> Tensor:
    """A picture [1, h, w, 3] in the joint space, [width] of length 1. Core scales its short side
    and cuts the middle out, as CLIP was trained. Raises NoSharedSpace."""
    embeds = clip_vision.encode_image(picture)["image_embeds"]
    if embeds.ndim != 2:
        raise NoSharedSpace(
            f"clip_vision must give one vector for a picture, got {tuple(embeds.shape)}"
        )
    return _unit(embeds[0], "clip_vision gives nothing for a picture")


def _unit(vector: Tensor, problem: str) -> Tensor:
    flat = vector.detach().float().cpu()
    norm = float(flat.norm())
    if not norm > SMALLEST_NORM or norm == float("inf"):
        raise NoSharedSpace(f"{problem}: its vector has the length {norm:g}")
    return flat / norm


def caption_vector(clip: CLIP, text: str) -> Tensor:
    """A caption for text to text, [width] of length 1: the mean of its token embeddings from any
    text encoder, padding left out. Zeros for a text of nothing."""
    tokens = clip.tokenize(text)
    encoded = clip.encode_from_tokens(tokens, return_dict=True)
    states = encoded["cond"][0].detach().float().cpu()
    mask = encoded.get("attention_mask")
    kept = token_mask(tokens, len(states)) if mask is None else mask.flatten().bool().cpu()
    if len(kept) != len(states) or not bool(kept.any()):
        kept = torch.ones(len(states), dtype=torch.bool)
    mean = states[kept].mean(0)
    return mean / mean.norm().clamp(min=SMALLEST_NORM)


def common_part(vectors: Sequence[Tensor]) -> Tensor:
    """What all captions or all pictures share, to be taken away before they are compared; zeros for
    few.

    Mean token embeddings of encoders that were not trained for it all point one way: cosines lie
    around 0.8, and what tells two captions apart drowns in the other parts of the score. Mu and
    Viswanath, All-but-the-Top (ICLR 2018), step 1. Measured on ten storyboards with layers 0, 2, 4
    and 6 of MiniLM: recall@1 of the full score 32, 32, 32 and 56 % as they are, 38, 41, 43 and 60 %
    without the common part. Text and pictures of CLIP lie in two narrow cones (Liang et al., Mind
    the Gap, NeurIPS 2022), each with its own common part; what that brings was not measured, for
    want of CLIP's weights.
    """
    stacked = torch.stack(list(vectors))
    return stacked.mean(0) if len(stacked) >= FEWEST else torch.zeros_like(stacked[0])


def without_common_part(vector: Tensor, common: Tensor) -> Tensor:
    """The vector without what all share, of length 1; zeros where nothing else is left."""
    own = vector - common
    return own / own.norm().clamp(min=SMALLEST_NORM)


def token_mask(tokens: dict[str, Any], length: int) -> Tensor:
    """Which of `length` states are of real tokens, for encoders that do not say.

    Tokenizers pad a chunk with one token, behind the text or before it (Mistral): of such a run one
    is kept, which is the end mark where padding repeats that. All, where no list of tokens is as
    long as the states.
    """
    for chunks in tokens.values():
        if not isinstance(chunks, list) or sum(map(len, chunks)) != length:
            continue
        kept: list[bool] = []
        for chunk in chunks:
            ids = [entry[0] for entry in chunk]
            behind, before = _run(ids[::-1]), _run(ids)
            kept += [before - 1 <= at <= len(ids) - behind for at in range(len(ids))]
        return torch.tensor(kept)
    return torch.ones(length, dtype=torch.bool)


def _run(ids: Sequence[Any]) -> int:
    """How often the first token stands in a row; 1 where it is a picture or an embedding."""
    if not ids or not isinstance(ids[0], int):
        return 1
    return len(list(itertools.takewhile(lambda one: isinstance(one, int) and one == ids[0], ids)))


def cosines(vector: Tensor, others: Sequence[Tensor]) -> list[float]:
    """Cosine of one vector with each other one, all of length 1."""
    return [float(torch.dot(vector, other)) for other in others]
