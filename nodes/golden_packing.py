"""From pictures to packed references on a conditioning: what the golden memory pack node does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import comfy.utils
import torch

from ..adapters.family import Conditioning
from ..adapters.flux_joint import ContextKeyframe, joint_keyframes
from ..adapters.image_families import image_family_of
from ..adapters.image_family import ImageCapabilities, ImageFamily, ImageInputs
from ..adapters.reference_latents import REFERENCES
from ..adapters.references import noisy_latents, packed_pictures
from ..adapters.text import check_text
from ..memory.golden import Packing, PackingPolicy, pack_references
from ..memory.golden_atlas import merge_left_over, pack_atlas
from .given_pictures import check_pictures
from .golden_report import REASONS
from .keyframe_value import Keyframes

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

REFERENCE_LIST, ATLAS, JOINT = "reference list", "atlas", "joint K/V"
REFERENCE_MODES = (REFERENCE_LIST, ATLAS, JOINT)
LEAVE_OUT, MERGE, REFUSE = "leave out", "merge into an atlas", "refuse"
LEFT_OVER = (LEAVE_OUT, MERGE, REFUSE)


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """The inputs of ThroughlineGoldenMemPack.

    `pictures` [1, h, w, 3] best first, `names` one for each; `target` is (height, width) of level 0
    in pixels, `policy` lacks the unit and the cap of the model, 0 of which is its own.
    """

    model: ModelPatcher
    vae: VAE
    positive: Conditioning
    negative: Conditioning
    pictures: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    target: tuple[int, int]
    policy: PackingPolicy
    max_references: int
    mode: str
    left_over: str
    noise: float
    seed: int


def golden_request(inputs: dict[str, Any]) -> GoldenRequest:
    """The inputs as the host gives them, a list each. Raises ValueError naming the input."""
    images, keyframes = inputs.pop("images", None), _only(inputs, "keyframes", None)
    values = {name: _only(inputs, name) for name in inputs}
    pictures, names = _named_pictures(images or (), keyframes)
    height, width = values["height"], values["width"]
    scale = values["base_short"] / min(height, width) if values["base_short"] else 1.0
    return GoldenRequest(
        model=values["model"],
        vae=values["vae"],
        positive=values["positive"],
        negative=values.get("negative") or [],
        pictures=tuple(pictures),
        names=tuple(names),
        target=(round(height * scale), round(width * scale)),
        policy=PackingPolicy(
            ratio=values["ratio"],
            group_size=values["group_size"],
            levels=values["levels"],
            first_level=values["first_level"],
            least_side=values["least_side"],
            pinned=min(values["pinned"], len(pictures)),
        ),
        max_references=values["max_references"],
        mode=_choice("reference_mode", values["reference_mode"], REFERENCE_MODES),
        left_over=_choice("left_over", values["left_over"], LEFT_OVER),
        noise=values["reference_noise"],
        seed=values["seed"],
    )


def family_and_abilities(request: GoldenRequest) -> tuple[ImageFamily, ImageCapabilities]:
    """The model's family and what it takes; refuses models, and text of others, by name."""
    family = image_family_of(request.model, joint=request.mode == JOINT)
    check_text(request.model, request.positive, "positive")
    return family, family.capabilities(request.model)


def plan_references(
    request: GoldenRequest, family: ImageFamily, capabilities: ImageCapabilities
) -> Packing:
    """Which picture gets which place. Raises ValueError where none does, or `refuse` is chosen."""
    policy = replace(
        request.policy,
        unit=capabilities.unit,
        most_references=_most_references(request, family, capabilities),
    )
    sizes = [(picture.shape[1], picture.shape[2]) for picture in request.pictures]
    if request.mode == ATLAS:
        packing = pack_atlas(sizes, request.target, replace(policy, most_references=None, pinned=0))
    else:
        packing = pack_references(sizes, request.target, policy)
        if request.left_over == MERGE:
            packing = merge_left_over(packing, sizes, request.target, policy)
    if packing.left_out and request.left_over == REFUSE:
        first = packing.left_out[0]
        raise ValueError(
            f"{len(packing.left_out)} of {len(sizes)} pictures have no place with {family.name}, "
            f"{request.names[first.source]} first ({REASONS[first.reason]}): use fewer, raise "
            "group_size, or choose another left_over"
        )
    if not packing.references and packing.atlas is None:
        raise ValueError(
            f"images must be {capabilities.unit} pixels or more on each side for {family.name}, "
            f"got {sizes[0][1]} x {sizes[0][0]}"
        )
    return packing


def attach_references(request: GoldenRequest, family: ImageFamily, packing: Packing) -> ImageInputs:
    """Encode the references at their sizes and put them where the model reads them."""
    made = packed_pictures(request.pictures, packing)
    progress = comfy.utils.ProgressBar(len(made))
    latents = []
    for picture in made:
        latents.append(family.encode_reference(request.vae, picture))
        progress.update(1)
    if request.mode == JOINT:
        # The best one stands nearest to what is made, as the newest would.
        context = [ContextKeyframe(latent=latent) for latent in reversed(latents)]
        model = joint_keyframes(
            request.model, context=context, context_noise=request.noise, context_seed=request.seed
        )
        return ImageInputs(model=model, positive=request.positive, negative=request.negative)
    noisy = noisy_latents(request.model, latents, request.noise, request.seed)
    return family.with_references(request.model, request.positive, request.negative, noisy)


def _most_references(
    request: GoldenRequest, family: ImageFamily, capabilities: ImageCapabilities
) -> int | None:
    """The widget's number where it is not 0, else the family's, less what positive holds."""
    cap = capabilities.most_references
    asked = request.max_references
    if cap is not None and asked > cap:
        raise ValueError(f"max_references must be {cap} or less for {family.name}, got {asked}")
    most = asked or cap or capabilities.advised_references
    held = max((len(options.get(REFERENCES, ())) for _, options in request.positive), default=0)
    if cap is None or most is None or request.mode == ATLAS:
        return most
    if held >= cap:
        raise ValueError(
            f"{family.name} takes {cap} references at most, and positive already holds {held}"
        )
    return min(most, cap - held)


def _named_pictures(
    images: Sequence[torch.Tensor], keyframes: Keyframes | None
) -> tuple[list[torch.Tensor], list[str]]:
    """Single pictures without alpha, best first, and their names; keyframes newest first."""
    for batch in images:
        check_pictures(batch)
    pictures = [picture[None, ..., :3] for batch in images for picture in batch]
    names = [f"image {number + 1}" for number in range(len(pictures))]
    if keyframes is not None:
        for shot_id in reversed(keyframes.shot_ids):
            picture = keyframes.of(shot_id)
            assert picture is not None
            pictures.append(picture)
            names.append(f"shot {shot_id}")
    if not pictures:
        raise ValueError("images or keyframes must be connected, got neither")
    return pictures, names


def _only(inputs: dict[str, Any], name: str, *missing: Any) -> Any:
    """The one value of an input, which the host gives as a list."""
    values = inputs.get(name, list(missing))
    if len(values) != 1:
        raise ValueError(f"{name} must be one value, got a list of {len(values)}")
    return values[0]


def _choice(name: str, value: str, options: Sequence[str]) -> str:
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
    return value
