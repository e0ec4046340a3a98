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
        "s": {"class_type": "SaveLatent", "inputs": {"samples": ["k", 0], "filename_prefix": "x"}},
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
    name, cap = CAPS.get(family, ("Flux.1 Kontext", 4))
    counts = COUNTS[:cap]
    assert report.startswith(f"{name}: {len(counts)} pictures in {len(counts)} references, ")
    assert tokens_of(report) == sum(counts)
    assert counts in seen
    assert [one for one in seen if one not in (counts, [])] == []  # [] is a pass without them


@pytest.mark.parametrize("family", CAPS)
def test_more_than_the_model_takes_is_left_out_by_name(
    family: str, run_golden: Callable[..., Any]
) -> None:
    cap = CAPS[family][1]
    report, seen = run_golden(graph(family, count=cap + 2, ratio=1.0))
    assert len(seen[0] or seen[1]) == cap
    left_out = f"Left out, more than the model or max_references allows: image {cap + 1}, image"
    assert left_out in report


@pytest.mark.parametrize("family", ["flux2_klein", "omnigen2"])
def test_or_shares_one_atlas(family: str, run_golden: Callable[..., Any]) -> None:
    cap = CAPS[family][1]
    changes = {"left_over": "merge into an atlas", "ratio": 1.0}
    report, seen = run_golden(graph(family, count=cap + 2, **changes))
    counts = seen[0] or seen[1]
    assert len(counts) == cap
    assert f"{cap + 2} pictures in {cap} references" in report
    assert tokens_of(report) == sum(counts)
    assert f"- atlas at level {cap - 1}, " in report
    assert f"{counts[-1]:,} tokens, image {cap}, image {cap + 1}, image {cap + 2}" in report


def test_or_is_refused_by_name(run_golden: Callable[..., Any]) -> None:
    with pytest.raises(
        run_golden.error,
        match=r"1 of 4 pictures have no place with Qwen-Image-Edit 2509, image 4 f",
    ):
        run_golden(graph("qwen_edit_2509", left_over="refuse"))
    with pytest.raises(
        run_golden.error, match=r"max_references must be 6 or less for Flux\.2 dev, got 7"
    ):
        run_golden(graph("flux2_dev", max_references=7))


def test_references_that_positive_holds_count(run_golden: Callable[..., Any]) -> None:
    prompt = graph("flux2_klein", positive=["r2", 0])
    prompt["e"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["p1", 0], "vae": ["m", 2]}}
    prompt["p1"] = {"class_type": "GoldenTestPictures", "inputs": {"count": 1}}
    for number, before in ((1, ["m", 3]), (2, ["r1", 0])):
        prompt[f"r{number}"] = {
            "class_type": "ReferenceLatent",
            "inputs": {"conditioning": before, "latent": ["e", 0]},
        }
    report, seen = run_golden(prompt)
    assert [256, 256, *COUNTS[:2]] in seen
    assert tokens_of(report) == sum(COUNTS[:2])
    assert "image 3, image 4" in report


def test_one_atlas_is_one_reference(run_golden: Callable[..., Any]) -> None:
    """Four pictures on 5 x 3 squares of 2 tokens (128 / 3 is 42 pixels, 32 in whole tokens)."""
    report, seen = run_golden(graph("flux", reference_mode="atlas"))
    assert [10 * 6] in seen
    assert report.startswith("Flux.1 Kontext: 4 pictures in 1 reference, 60 tokens, ")
    assert "1.667 x t_0" in report


def test_the_joint_mode_reads_pictures_as_keyframes(run_golden: Callable[..., Any]) -> None:
    """No reference latents: the model itself keeps what its single blocks read."""
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.adapters.flux_joint_calls import JOINT
    from throughline.nodes.golden import GoldenMemPack

    report, seen = run_golden(graph("flux", reference_mode="joint K/V"))
    assert report.startswith(f"Flux.1-dev (joint): 4 pictures in 4 references, {sum(COUNTS)} tok")
    assert all(one == [] for one in seen)
    kept = 2 * 2 * 48 * 4 * sum(COUNTS) / 1e6  # K and V of two single blocks, 48 wide in float32
    assert report.splitlines()[-1].startswith(f"- Kept while sampling: {kept:.1f} MB")
    tiny = IMAGE_FAMILIES["flux"]
    inputs = listed(tiny, reference_mode="joint K/V", reference_noise=0.2, seed=4)
    model = GoldenMemPack.execute(**inputs).args[0]
    joint = model.model_options["transformer_options"][JOINT]
    sizes = [tuple(one.latent.shape[2:]) for one in joint.context]
    assert sizes == [(2, 2), (2, 8), (6, 8), (16, 16)]  # the best one last, as the newest
    assert (joint.context_noise, joint.context_seed) == (0.2, 4)
    assert JOINT not in inputs["model"][0].model_options["transformer_options"]


def test_keyframes_follow_the_images_newest_first(comfy: ModuleType) -> None:
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.nodes.golden import GoldenMemPack
    from throughline.nodes.keyframe_value import Keyframes
    from throughline.planning.script import parse_storyboard

    storyboard = parse_storyboard("A red room.\nA garden.\nA street.")
    frames = torch.rand(2, 64, 64, 3)
    ids = tuple(shot.id for shot in storyboard.shots)[1:]
    keyframes = Keyframes(storyboard=storyboard, shot_ids=ids, images=frames)
    inputs = listed(IMAGE_FAMILIES["flux2_dev"], count=1, keyframes=keyframes, first_level=1)
    _, positive, negative, _, report = GoldenMemPack.execute(**inputs).args
    sizes = [tuple(one.shape[2:]) for one in positive[0][1]["reference_latents"]]
    assert sizes == [(4, 4), (3, 3), (1, 1)]
    named = [line for line in report.splitlines() if line.startswith("- level")]
    assert [line.split(", ")[-1] for line in named] == [
        "image 1",
        f"shot {ids[1]}",
        f"shot {ids[0]}",
    ]
    assert "reference_latents" not in negative[0][1]  # Flux.2 dev samples with cfg 1


def test_without_a_negative_there_is_none(run_golden: Callable[..., Any]) -> None:
    """A sampler that asks for it is blocked with a message; the pack itself works."""
    report, seen = run_golden(graph("flux2_klein", negative=None))
    assert tokens_of(report) == sum(COUNTS)
    assert seen == []


def test_what_is_wrong_is_named(run_golden: Callable[..., Any]) -> None:
    for changes, message in (
        ({"images": None}, "images or keyframes must be connected, got neither"),
        (
            {"width": 16, "height": 16, "first_level": 2},
            "first_level must be 0 or less for 16 x 16",
        ),
    ):
        with pytest.raises(run_golden.error, match=message):
            run_golden(graph("flux2_dev", **changes))
    with pytest.raises(run_golden.error, match="pinned must be 4 or less, got 5: no more"):
        run_golden(graph("flux2_klein", count=5, pinned=5))
    with pytest.raises(run_golden.error, match="must read reference pictures, got LTXV"):
        run_golden(graph("ltxv"))


def test_the_packing_is_shown_on_the_node(run_film: Callable[..., Any], run_golden: Any) -> None:
    prompt = graph("flux2_dev", pinned=1)
    prompt["s2"] = {"class_type": "PreviewImage", "inputs": {"images": ["g", 3]}}
    outputs, _ = run_film(prompt)
    assert len(outputs["g"]["images"]) == 1 == len(outputs["s2"]["images"])
    assert "image 1 (pinned)" in "".join(outputs["g"]["text"])


@pytest.mark.parametrize("family", ["flux", "qwen_edit_2509", "omnigen2"])
def test_text_of_another_encoder_is_named(family: str, comfy: ModuleType) -> None:
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.nodes.golden import GoldenMemPack

    positive = [[torch.zeros(1, 7, 32), {}]]
    with pytest.raises(ValueError, match="positive must be 24 wide for this model, got 32"):
        GoldenMemPack.execute(**listed(IMAGE_FAMILIES[family], positive=positive))


def listed(tiny: Any, count: int = 4, **changes: Any) -> dict[str, list[Any]]:
    """The node's inputs as the host gives them, a list each."""
    plain = graph("flux")["g"]["inputs"]
    values = {
        **plain,
        "model": tiny.model(),
        "vae": tiny.vae(),
        "positive": tiny.conditioning(1),
        "negative": tiny.conditioning(2),
        **changes,
    }
    return {name: [value] for name, value in values.items()} | {"images": Pictures().make(count)[0]}
