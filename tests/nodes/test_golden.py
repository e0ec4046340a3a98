"""The golden memory pack in the real host: what its report counts is what the model sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

SIZES = ((256, 256), (200, 260), (96, 400), (40, 40))
COUNTS = [8 * 8, 3 * 4, 1 * 4, 1 * 1]
"""Pictures as (height, width), and their tokens by hand with a target of 128 x 128: levels of 8, 4,
3, 1 tokens along the short side. 200 x 260 at level 1 would be 4 x 5, more than its 16 tokens."""

CAPS = {
    "flux2_dev": ("Flux.2 dev", 6),
    "flux2_klein": ("Flux.2 klein", 4),
    "qwen_edit_2509": ("Qwen-Image-Edit 2509", 3),
    "qwen_edit_2511": ("Qwen-Image-Edit 2511", 3),
    "omnigen2": ("OmniGen2", 5),
}


class Pictures:
    """A list of pictures of different sizes, in grey levels that tell them apart."""

    CATEGORY = "Throughline tests"
    FUNCTION = "make"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"count": ("INT", {"default": 4})}}

    def make(self, count: int) -> tuple[list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(count)
        sizes = [SIZES[index % len(SIZES)] for index in range(count)]
        return ([torch.rand((1, *size, 3), generator=generator) for size in sizes],)


class Watch:
    """Notes what the model really reads: the reference tokens of each of its forwards."""

    CATEGORY = "Throughline tests"
    FUNCTION = "watch"
    RETURN_TYPES = ("MODEL",)
    seen: list[list[int]] = []

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def watch(self, model: Any) -> tuple[Any]:
        clone = model.clone()
        network = model.model.diffusion_model
        if hasattr(network, "ref_image_patch_embedder"):  # OmniGen2 keeps no list of its own
            network.flat_and_pad_to_seq = _noting(network.flat_and_pad_to_seq)
        else:
            clone.set_model_post_input_patch(_note_post_input)
        return (clone,)


def _note_post_input(values: dict[str, Any]) -> dict[str, Any]:
    Watch.seen.append(list(values["transformer_options"].get("reference_image_num_tokens", [])))
    return values


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*arguments: Any) -> Any:
        result = method(*arguments)
        Watch.seen.append(list(result[4][0]))  # l_effective_ref_img_len of the first in the batch
        return result

    return noting


def graph(family: str, count: int = 4, steps: int = 1, **changes: Any) -> dict[str, Any]:
    """Models "m", pictures "p", the pack "g", a sampler "k" and its latent saved by "s"."""
    flux2 = family.startswith("flux2")
    inputs = {
        "model": ["m", 0],
        "vae": ["m", 2],
        "positive": ["m", 3],
        "negative": ["m", 4],
        "images": ["p", 0],
        "width": 128,
        "height": 128,
        "group_size": 1,
        "levels": 6,
        "first_level": 0,
        "least_side": 0,
        "max_references": 0,
        "pinned": 0,
        "reference_mode": "reference list",
        "left_over": "leave out",
    }
    chosen = {name: value for name, value in {**inputs, **changes}.items() if value is not None}
    empty = "EmptyFlux2LatentImage" if flux2 else "EmptySD3LatentImage"
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": family, "seed": 0, "layers": 0},
        },
        "p": {"class_type": "GoldenTestPictures", "inputs": {"count": count}},
        "g": {"class_type": "ThroughlineGoldenMemPack", "inputs": chosen},
        "w": {"class_type": "GoldenTestWatch", "inputs": {"model": ["g", 0]}},
        "l": {"class_type": empty, "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "k": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["w", 0],
                "positive": ["g", 1],
                "negative": ["g", 2],
                "latent_image": ["l", 0],
                "seed": 1,
                "steps": steps,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "v": {"class_type": "VAEDecode", "inputs": {"samples": ["k", 0], "vae": ["m", 2]}},
        "s": {"class_type": "PreviewImage", "inputs": {"images": ["v", 0]}},
    }


@pytest.fixture
def run_golden(
    run_film: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, list[list[int]]]]:
    """Run a graph; gives the pack's report and what the model saw in each forward."""
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "GoldenTestPictures", Pictures)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "GoldenTestWatch", Watch)

    def run(prompt: dict[str, Any]) -> tuple[str, list[list[int]]]:
        Watch.seen = []
        outputs, _ = run_film(prompt)
        return "".join(outputs["g"]["text"]), Watch.seen

    run.error = run_film.error  # type: ignore[attr-defined]
    return run


def tokens_of(report: str) -> int:
    found = re.search(r"([\d,]+) tokens, ", report.splitlines()[0])
    assert found is not None, report
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("family", [*CAPS, "flux"])
def test_the_report_counts_what_the_model_sees(family: str, run_golden: Callable[..., Any]) -> None:
    report, seen = run_golden(graph(family))
    used = min(4, CAPS.get(family, ("", 4))[1])
    counts = COUNTS[:used]
    assert report.startswith({"flux": "Flux.1 Kontext"}.get(family) or CAPS[family][0])
    assert [one for one in seen if one] and all(one in ([], counts) for one in seen)
    assert tokens_of(report) == sum(counts)
