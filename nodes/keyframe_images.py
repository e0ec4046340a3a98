"""ThroughlineKeyframesFromImages: an artist's own pictures as the keyframes of a storyboard."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..planning.storyboard import Storyboard, listed
from .given_pictures import check_pictures
from .keyframe_value import Keyframes
from .sockets import TL_KEYFRAMES, TL_STORYBOARD


class KeyframesFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineKeyframesFromImages",
            display_name="Keyframes from images",
            category="Throughline",
            description=(
                "Gives the shots of a storyboard your own pictures as keyframes: drawn, "
                "photographed, or made with any image model. The long video sampler begins each "
                "shot with its picture."
            ),
            search_aliases=["keyframes", "storyboard images", "first frame", "shot images"],
            is_input_list=True,
            inputs=[
                TL_STORYBOARD.Input(
                    "storyboard", tooltip="The shots; connect the same one to the sampler."
                ),
                io.Image.Input(
                    "images",
                    tooltip="One picture per shot, in their order, as a batch or a list. Other "
                    "sizes than the first one's are cropped and scaled to it.",
                ),
                io.String.Input(
                    "shot_ids",
                    default="",
                    optional=True,
                    tooltip="Fill it in when you have pictures for some shots only: '1.1, 2.3' "
                    "gives the first picture to shot 1.1 and the second to 2.3.",
                ),
            ],
            outputs=[
                TL_KEYFRAMES.Output(
                    display_name="keyframes", tooltip="For the long video sampler or Recall."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        storyboard: list[Storyboard],
        images: list[torch.Tensor],
        shot_ids: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        keyframes = keyframes_from_images(storyboard[0], images, shot_ids[0])
        bare = [shot.id for shot in keyframes.storyboard.shots if keyframes.of(shot.id) is None]
        text = f"{len(keyframes.shot_ids)} of {len(keyframes.storyboard.shots)} shots"
        return io.NodeOutput(
            keyframes, ui=ui.PreviewText(text + (f", none for {listed(bare)}" if bare else ""))
        )


def keyframes_from_images(
    storyboard: object, images: Sequence[torch.Tensor], shot_ids: str
) -> Keyframes:
    """Keyframes of pictures [n, height, width, 3 or 4] in 0..1, in the storyboard's order.

    `shot_ids` is "" for all shots in order, or ids with commas between. Raises ValueError naming
    input, rule and value for another count of pictures than of shots, an unknown shot or one that
    is named twice, and pictures that are none or not finite.
    """
    if not isinstance(storyboard, Storyboard):
        raise ValueError(
            f"storyboard must come from a Storyboard node, got {type(storyboard).__name__}"
        )
    pictures = _pictures(images)
    wanted = [name.strip() for name in shot_ids.split(",") if name.strip()]
    known = [shot.id for shot in storyboard.shots]
    for place, name in enumerate(wanted):
        if name not in known:
            raise ValueError(
                f"shot_ids must name shots of the storyboard ({listed(known)}), got {name!r}"
            )
        if name in wanted[:place]:
            raise ValueError(f"shot_ids must name each shot once, got {name!r} twice")
    chosen = wanted or known
    if len(pictures) != len(chosen):
        advice = "" if wanted else ": name the shots that they belong to in shot_ids"
        raise ValueError(
            f"images must be one for each of the {len(chosen)} shots, got {len(pictures)}{advice}"
        )
    by_shot = dict(zip(chosen, pictures, strict=True))
    ordered = tuple(name for name in known if name in by_shot)
    return Keyframes(
        storyboard=storyboard,
        shot_ids=ordered,
        images=torch.stack([by_shot[name] for name in ordered]),
    )


def _pictures(images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every picture [height, width, 3] of a list of batches, in the size of the first one."""
    found: list[torch.Tensor] = []
    for batch in images:
        check_pictures(batch)
        pixels = batch[..., :3].float().cpu()
        size = found[0].shape[:2] if found else pixels.shape[1:3]
        if pixels.shape[1:3] != size:
            scaled = comfy.utils.common_upscale(
                pixels.movedim(-1, 1), size[1], size[0], "bicubic", "center"
            )
            pixels = scaled.movedim(1, -1).clamp(0.0, 1.0)  # n c h w -> n h w c
        found += list(pixels)
    return found


NODES: list[type[io.ComfyNode]] = [KeyframesFromImages]
