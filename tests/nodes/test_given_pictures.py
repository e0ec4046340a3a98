"""Pictures that are connected to a node are judged before anything is made of them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = "<Ana> sits.\n<Ana> leaves.\n"
WRONG = [
    (torch.full((2, 32, 32, 3), float("nan")), "^images must be finite, got NaN or infinity"),
    (torch.full((2, 32, 32, 3), float("inf")), "^images must be finite, got NaN or infinity"),
    (torch.zeros(2, 32, 32, 1), r"^images must be pictures, .* 3 colours, got \(2, 32, 32, 1\)"),
    (torch.zeros(0, 32, 32, 3), r"^images must be pictures, .* 3 colours, got \(0, 32, 32, 3\)"),
]


@pytest.mark.parametrize(("images", "words"), WRONG)
@pytest.mark.parametrize("node", ["recall", "golden", "keyframes"])
def test_wrong_pictures_name_their_input(
    node: str, images: torch.Tensor, words: str, comfy: ModuleType
) -> None:
    with pytest.raises(ValueError, match=words):
        give(node, images)


def give(node: str, images: torch.Tensor) -> Any:
    from throughline.nodes.golden_packing import golden_request
    from throughline.nodes.keyframe_images import keyframes_from_images
    from throughline.nodes.recalled_pictures import recall_pictures, recall_request
    from throughline.planning.script import parse_storyboard

    storyboard = parse_storyboard(SCRIPT)
    if node == "recall":
        return recall_pictures(recall_request(storyboard, "1.2", 3, {"images": images}))
    if node == "golden":
        sizes = {"width": [64], "height": [64], "base_short": [0]}
        return golden_request({"images": [images], **sizes})
    return keyframes_from_images(storyboard, [images], "")
