"""Keyframes that stock Flux.1-dev makes together: the joint mode of Captain Cinema, training-free.

The pictures of several shots are one latent batch, each with its own prompt. Double blocks stay as
they are (each pair of caption and picture alone), in single blocks the pairs read one another's
keys and values (adapters/flux_joint_attention.py). Older keyframes are context: at golden sizes
they go through the model once per sampling, at a noise level of their own; what the single blocks
make of them is kept in a LatentCache, which ComfyUI counts and moves, and read in every step. That
equals one long sequence exactly, since nothing in the context sees what is being made.

arXiv 2507.18634 and the shared design `golden-memory-and-keyframes.md`, section 3. Inferred, not
the paper's: positions of small pictures, and that context sees only older context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import comfy.conds
import comfy.ldm.flux.model
import comfy.model_base
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..planning.joint import JOINT_MODES, JointMode
from .cache import LatentCache
from .family import Conditioning
from .fingerprint import fingerprint_value
from .flux_joint_calls import JOINT, TEXT_TOKENS, Joint, call_jointly, prepare_jointly
from .flux_joint_calls import ContextKeyframe as ContextKeyframe
from .flux_joint_calls import kept_bytes as kept_bytes
from .image_family import ImageCapabilities, ImageInputs
from .memory_calls import apply_uncompiled

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

Positions = Literal["stretched", "native"]

PIXELS_PER_TOKEN = 16
"""Of Flux.1: 8 pixels per latent cell, 2 x 2 cells per token."""


def joint_keyframes(
    model: ModelPatcher,
    *,
    mode: JointMode = "causal",
    context: Sequence[ContextKeyframe] = (),
    context_noise: float = 0.0,
    context_seed: int = 0,
    positions: Positions = "stretched",
    time_step: float = 0.0,
) -> ModelPatcher:
    """A clone that makes the pictures of a latent batch together; the given model stays as it is.

    `mode` is what the pictures of the batch see of one another. `context` are keyframes that exist,
    oldest first, each seeing the older ones. `context_noise` (0..1, the flow's sigma) is how noisy
    they are: 0 for stock models; a model trained as the paper's takes 0.001 to 0.25. Their noise is
    drawn from `context_seed`. `positions`: a small picture's tokens stand spread over the grid of
    the picture being made ("stretched"), or side by side from its corner ("native").
    `time_step` puts that much between neighbouring keyframes on the rotary time axis: 0 for stock
    Flux.1-dev, which was not trained for another.

    A second call replaces the first. The latent batch must be the pictures of the shots in order;
    `join_prompts` makes their conditioning. While it is on, a compiled model runs uncompiled.
    Raises ValueError for other models, by name, and for context that does not fit the model.
    """
    check_joint_model(model)
    if mode not in JOINT_MODES:
        raise ValueError(f"mode must be one of {', '.join(JOINT_MODES)}, got {mode!r}")
    if positions not in get_args(Positions):
        raise ValueError(f"positions must be stretched or native, got {positions!r}")
    if not 0.0 <= context_noise <= 1.0:
        raise ValueError(f"context_noise must be 0 to 1, got {context_noise}")
    for number, keyframe in enumerate(context):
        _check_keyframe(model, keyframe, f"context keyframe {number + 1}")
    clone = model.clone()
    cache = LatentCache(load_device=model.load_device, offload_device=model.offload_device)
    joint = Joint(
        base=model.model,
        mode=mode,
        context=tuple(context),
        context_noise=context_noise,
        context_seed=context_seed,
        stretched=positions == "stretched",
        time_step=time_step,
        content=tuple(
            fingerprint_value([one.latent, [list(entry) for entry in one.conditioning or []]])
            for one in context
        ),
        cache=cache,
    )
    options = clone.model_options["transformer_options"]
    if JOINT not in options:
        clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, JOINT, prepare_jointly)
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, JOINT, call_jointly)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, JOINT, apply_uncompiled)
    clone.model_options["transformer_options"] = {**options, JOINT: joint}
    clone.set_additional_models(JOINT, [cache.patcher] if context else [])
    return clone


def join_prompts(conditionings: Sequence[Conditioning]) -> Conditioning:
    """The prompts of several shots as one CONDITIONING for a latent batch of as many pictures.

    Texts of different lengths are padded with zeros which the joint mode lets nobody read, so each
    shot has exactly its own; without it (`joint_keyframes`) they must be of one length. Everything
    but the texts must be the same in all of them. Raises ValueError naming the shot.
    """
    if not conditionings:
        raise ValueError("prompts must be one or more, got none")
    entries = [
        _read_by_flux(_only_entry(one, f"prompt {i + 1}")) for i, one in enumerate(conditionings)
    ]
    first, others = dict(entries[0][1]), entries[1:]
    for number, (_, options) in enumerate(others):
        _check_same(first, options, f"prompt {number + 2}")
    texts = [embedding for embedding, _ in entries]
    lengths = tuple(text.shape[1] for text in texts)
    longest = max(lengths)
    padded = [torch.nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in texts]
    pooled = [options.get("pooled_output") for _, options in entries]
    if any(one is not None for one in pooled):
        first["pooled_output"] = torch.cat([one for one in pooled if one is not None])
    if min(lengths) < longest:
        marks = {TEXT_TOKENS: comfy.conds.CONDConstant(lengths)}
        first["model_conds"] = {**first.get("model_conds", {}), **marks}
    return [[torch.cat(padded), first]]


def check_joint_model(model: ModelPatcher) -> None:
    """Raises ValueError, naming the model's class, where keyframes cannot be made jointly."""
    name = type(model.model).__name__
    if not _is_flux(model):
        raise ValueError(f"model must be Flux.1-dev or a finetune of it, got {name}")
    given = int(model.model.diffusion_model.params.in_channels)
    own = int(model.get_model_object("latent_format").latent_channels)
    if given != own:
        raise ValueError(
            f"model must be Flux.1-dev without inputs beside the latent, got {name} with {given} "
            f"input channels instead of {own} (Fill, Canny or Depth)"
        )


def _is_flux(model: ModelPatcher) -> bool:
    """Flux.1's own classes: subclasses (Flux.2, Chroma, LongCat) run other loops."""
    return (
        type(model.model) is comfy.model_base.Flux
        and type(model.model.diffusion_model) is comfy.ldm.flux.model.Flux
    )


def _check_keyframe(model: ModelPatcher, keyframe: ContextKeyframe, name: str) -> None:
    latent, params = keyframe.latent, model.model.diffusion_model.params
    channels = int(model.get_model_object("latent_format").latent_channels)
    if latent.ndim != 4 or latent.shape[:2] != (1, channels):
        raise ValueError(
            f"{name} must be a latent 1 x {channels} x height x width, got {tuple(latent.shape)}"
        )
    if any(side % params.patch_size or side == 0 for side in latent.shape[2:]):
        raise ValueError(
            f"{name} must have sides that are multiples of {PIXELS_PER_TOKEN} pixels, got "
            f"{latent.shape[3] * 8} x {latent.shape[2] * 8}"
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    if keyframe.conditioning is None:
        return
    text, options = _only_entry(keyframe.conditioning, f"caption of {name}")
    if text.shape[-1] != params.context_in_dim or len(text) != 1:
        raise ValueError(
            f"caption of {name} must be one text of width {params.context_in_dim} for this model, "
            f"got {tuple(text.shape)}: choose the text encoders that belong to it"
        )
    if TEXT_TOKENS in options.get("model_conds", {}):
        raise ValueError(f"caption of {name} must be one prompt, got several joined ones")


def _only_entry(conditioning: Conditioning, name: str) -> tuple[Tensor, dict[str, Any]]:
    if len(conditioning) != 1:
        raise ValueError(f"{name} must be one conditioning, got {len(conditioning)} combined ones")
    text, options = conditioning[0]
    return text, options


def _read_by_flux(entry: tuple[Tensor, dict[str, Any]]) -> tuple[Tensor, dict[str, Any]]:
    """A prompt without the mask of its text tokens that some encoders give: core's Flux reads an
    `attention_mask` only beside the size of the picture that it was made for (`extra_conds`)."""
    text, options = entry
    if "attention_mask_img_shape" in options:
        return text, options
    return text, {key: value for key, value in options.items() if key != "attention_mask"}


def _check_same(first: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """One batch has one of everything but the texts."""
    if (first.get("pooled_output") is None) != (other.get("pooled_output") is None):
        raise ValueError(f"{name} must have a pooled output like the first one, or none like it")
    for key in sorted({*first, *other} - {"pooled_output"}):
        same = key in first and key in other and comfy.conds.is_equal(first[key], other[key])
        if not same:
            raise ValueError(
                f"{name} must have the same {key} as the first one to be made with it, got "
                f"{other.get(key)!r} and {first.get(key)!r}"
            )


@dataclass(frozen=True)
class FluxJoint:
    """Stock Flux.1-dev by the joint mode: references are context keyframes, their K/V kept.

    Nothing in a loaded model tells Flux.1-dev from Flux.1 Kontext (one class, equal shapes), so
    who wants this asks for it by name.
    """

    name: str = "Flux.1-dev (joint)"

    def recognises(self, model: ModelPatcher) -> bool:
        try:
            check_joint_model(model)
        except ValueError:
            return False
        return True

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        return ImageCapabilities(
            unit=PIXELS_PER_TOKEN,
            most_references=None,
            advised_references=None,
            method="",
            negative_references=False,
            template="plain",
        )

    def latent_shape(self, model: ModelPatcher, height: int, width: int) -> tuple[int, ...]:
        latent_format = model.get_model_object("latent_format")
        for side, pixels in (("width", width), ("height", height)):
            if pixels < PIXELS_PER_TOKEN or pixels % PIXELS_PER_TOKEN:
                raise ValueError(
                    f"{side} must be a multiple of {PIXELS_PER_TOKEN} for {self.name}, got {pixels}"
                )
        scale = int(latent_format.spacial_downscale_ratio)
        return (1, int(latent_format.latent_channels), height // scale, width // scale)

    def encode_prompt(self, clip: CLIP, text: str, pictures: Sequence[Tensor]) -> Conditioning:
        """The text alone: this model's encoders look at no pictures."""
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def encode_reference(self, vae: VAE, picture: Tensor) -> Tensor:
        return vae.encode(picture[..., :3])

    def with_references(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        references: Sequence[Tensor],
    ) -> ImageInputs:
        """References as context without captions; the best one stands nearest, as the newest."""
        context = [ContextKeyframe(latent=latent) for latent in reversed(references)]
        joint = joint_keyframes(model, context=context)
        return ImageInputs(model=joint, positive=positive, negative=negative)


FLUX_JOINT = FluxJoint()
