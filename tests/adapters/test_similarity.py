"""CLIP's joint space and its traps, with core's own classes and loaders and random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CAPTIONS = ("a red lamp in the hall", "waves break below the pier", "she turns an old key")


@pytest.fixture(scope="module")
def similarity(comfy: ModuleType) -> ModuleType:
    from throughline.adapters import similarity

    return similarity


@pytest.fixture(scope="module")
def clips(comfy: ModuleType) -> ModuleType:
    from development import tiny_clips

    return tiny_clips


@pytest.fixture(scope="module")
def load(clips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`load(projection, kind)`: a CLIP-L, or with kind FLUX one beside a T5, loaded once."""
    folder = tmp_path_factory.mktemp("clips")
    loaded: dict[tuple[str, str], Any] = {}

    def make(projection: str = "trained", kind: str = "STABLE_DIFFUSION") -> Any:
        if (projection, kind) not in loaded:
            paths = [clips.write_clip_l(folder / f"clip_l_{projection}.safetensors", projection)]
            if kind == "FLUX":
                paths.append(clips.write_t5(folder / "t5.safetensors"))
            loaded[projection, kind] = clips.load_clip(*paths, kind=kind)
        return loaded[projection, kind]

    return make


@pytest.fixture(scope="module")
def vision(clips: ModuleType) -> Any:
    return clips.tiny_clip_vision()


def pictures(count: int = 3) -> list[torch.Tensor]:
    """Up to five pictures [1, h, w, 3] of different sizes."""
    made = []
    for seed, size in enumerate(((40, 60), (64, 64), (90, 50), (32, 32), (50, 80))[:count]):
        generator = torch.Generator().manual_seed(seed)
        made.append(torch.rand(1, *size, 3, generator=generator) * 0.5 + 0.1 * seed)
    return made


def unprojected(clip: Any, text: str) -> torch.Tensor:
    pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1]
    return pooled[0]


@pytest.mark.parametrize("kind", ["STABLE_DIFFUSION", "FLUX"])
def test_the_text_side_is_projected_by_hand(
    similarity: ModuleType, load: Callable[..., Any], vision: Any, kind: str
) -> None:
    clip = load(kind=kind)
    assert similarity.check_joint_space(clip, vision) == "l"
    vector = similarity.text_vector(clip, "l", CAPTIONS[0])
    tower = clip.cond_stage_model.clip_l
    last = unprojected(load(), CAPTIONS[0])
    projected = tower.transformer.text_projection.weight @ last
    torch.testing.assert_close(vector, projected / projected.norm())


def test_core_itself_hands_out_the_unprojected_one(
    similarity: ModuleType, load: Callable[..., Any]
) -> None:
    """Why a width of 768 proves nothing: pooled output of SD1's CLIP is not in the joint space."""
    clip = load()
    pooled = clip.encode_from_tokens(clip.tokenize(CAPTIONS[0]), return_pooled=True)[1][0]
    assert torch.equal(pooled, unprojected(clip, CAPTIONS[0]))
    right = similarity.text_vector(clip, "l", CAPTIONS[0])
    assert float(torch.dot(pooled / pooled.norm(), right)) < 0.9


def test_the_picture_side_is_what_core_gives(similarity: ModuleType, vision: Any) -> None:
    for picture in pictures():
        vector = similarity.picture_vector(vision, picture)
        embeds = vision.encode_image(picture)["image_embeds"][0]
        torch.testing.assert_close(vector, embeds / embeds.norm())
        assert vector.shape == (32,)


@pytest.mark.parametrize("count", [3, 5])
def test_a_space_that_is_really_shared_finds_the_picture_of_a_caption(
    similarity: ModuleType, load: Callable[..., Any], clips: ModuleType, count: int
) -> None:
    """The picture side's last layer is solved for, so that the pictures lie at their captions.

    Each caption stands twice in the script: both sides have the same common part, which five
    pictures show and three do not.
    """
    from throughline.memory.retrieval import Weights
    from throughline.nodes.recalling import Recaller, RecallSettings
    from throughline.planning.script import parse_storyboard

    clip, vision = load(), clips.tiny_clip_vision(seed=3)
    captions = [*CAPTIONS, "a dog sleeps", "snow on five roofs"][:count]
    wanted = torch.stack([similarity.text_vector(clip, "l", text) for text in captions])
    layer = vision.model.visual_projection
    shown = pictures(count)
    seen = [vision.model.vision_model(prepared(one), intermediate_output=-2) for one in shown]
    features = torch.cat([one[2] for one in seen]).detach().double()
    with torch.no_grad():
        layer.weight.copy_((torch.linalg.pinv(features) @ wanted.double()).T)
    story = parse_storyboard("\n".join([*captions, *captions]))
    settings = RecallSettings(weights=Weights(text=0.0, recency=0.0), gate=False)
    recaller = Recaller(story, {}, clip, vision, settings)
    assert recaller.scorer == (
        "captions are compared with pictures by CLIP (clip_l), and with captions"
    )
    for index, picture in enumerate(shown):
        recaller.see(index, picture)
    own = wanted - wanted.mean(0) if count >= similarity.FEWEST else wanted
    own = torch.nn.functional.normalize(own, dim=-1)
    for index in range(count):
        ranked = recaller.rank(count + index, range(count))
        assert ranked[0].candidate.id == story.shots[index].id
        assert ranked[0].picture == pytest.approx(1.0, abs=1e-3)
        found = {one.candidate.place: one.picture for one in ranked}
        expected = dict(enumerate((own @ own[index]).tolist()))
        assert found == pytest.approx(expected, abs=5e-3)


def prepared(picture: torch.Tensor) -> torch.Tensor:
    from comfy.clip_model import clip_preprocess

    return clip_preprocess(picture, size=32)


@pytest.mark.parametrize(
    ("projection", "kind", "words"),
    [
        (
            "missing",
            "STABLE_DIFFUSION",
            "clip_l: clip_l_missing.safetensors has no text_projection.weight",
        ),
        (
            "missing",
            "FLUX",
            "clip_l: clip_l_missing.safetensors, t5.safetensors has no text_projection.weight",
        ),
        (
            "zero",
            "STABLE_DIFFUSION",
            r"clip_l: text_projection.weight was never loaded \(its norm is 0\)",
        ),
        (
            "identity",
            "STABLE_DIFFUSION",
            "clip_l: text_projection.weight is the identity, which older versions",
        ),
    ],
)
def test_a_projection_that_is_none_is_refused_by_name(
    similarity: ModuleType,
    load: Callable[..., Any],
    vision: Any,
    projection: str,
    kind: str,
    words: str,
) -> None:
    with pytest.raises(similarity.NoSharedSpace, match=words):
        similarity.check_joint_space(load(projection, kind), vision)


def test_a_missing_projection_shows_without_its_file(
    similarity: ModuleType, clips: ModuleType, vision: Any, tmp_path: Path
) -> None:
    """Where the loader's file is not known the weight itself is looked at."""
    clip = clips.load_clip(clips.write_clip_l(tmp_path / "clip_l.safetensors", "missing"))
    clip.patcher.cached_patcher_init = None
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    with torch.no_grad():
        weight.zero_()  # what the memory held is not known; fresh memory is zero
    with pytest.raises(similarity.NoSharedSpace, match="was never loaded"):
        similarity.check_joint_space(clip, vision)
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(similarity.NoSharedSpace, match="was never loaded"):
        similarity.check_joint_space(clip, vision)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"projection_dim": 48}, r"clip_vision is 48 wide and clip is not \(clip_l 32\)"),
        ({"projection_dim": None}, "clip_vision has no projection"),
        (
            {"model_type": "siglip_vision_model"},
            "clip_vision must be CLIP's to be compared with text, got siglip_vision_model",
        ),
    ],
)
def test_a_picture_side_that_does_not_fit_is_refused_by_name(
    similarity: ModuleType,
    load: Callable[..., Any],
    clips: ModuleType,
    changes: dict[str, Any],
    words: str,
) -> None:
    other = clips.tiny_clip_vision(**changes)
    with pytest.raises(similarity.NoSharedSpace, match=words):
        similarity.check_joint_space(load(), other)


def test_a_text_encoder_without_clip_is_refused_by_name(
    similarity: ModuleType, vision: Any
) -> None:
    from development.tiny_models import tiny_text_encoder

    with pytest.raises(similarity.NoSharedSpace, match="no text tower of CLIP .TinyTextModel."):
        similarity.check_joint_space(tiny_text_encoder(), vision)


def test_the_node_says_why_clip_is_not_used(load: Callable[..., Any], vision: Any) -> None:
    from throughline.nodes.recalling import scorer_of

    assert scorer_of(None, vision) == (
        None,
        "captions are compared by their words (TF-IDF): clip is not connected",
    )
    tower, words = scorer_of(load("missing"), vision)
    assert tower is None
    assert words.startswith(
        "captions are compared with captions by SD1ClipModel: clip_l: clip_l_missing.safetensors "
        "has no text_projection.weight"
    )


def test_a_vector_without_length_is_refused(similarity: ModuleType, clips: ModuleType) -> None:
    blind = clips.tiny_clip_vision()
    with torch.no_grad():
        blind.model.visual_projection.weight.zero_()
    with pytest.raises(similarity.NoSharedSpace, match="its vector has the length 0"):
        similarity.picture_vector(blind, pictures()[0])


@pytest.mark.parametrize("kind", ["STABLE_DIFFUSION", "FLUX"])
def test_looking_leaves_the_encoder_as_it_was(
    similarity: ModuleType, load: Callable[..., Any], kind: str
) -> None:
    clip = load(kind=kind)
    tokens = clip.tokenize(CAPTIONS[1])
    before = clip.encode_from_tokens(tokens, return_pooled=True)
    similarity.text_vector(clip, "l", CAPTIONS[0])
    similarity.caption_vector(clip, CAPTIONS[0])
    after = clip.encode_from_tokens(tokens, return_pooled=True)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("kind", "end"), [("STABLE_DIFFUSION", 49407), ("FLUX", 1)])
def test_a_caption_is_the_mean_of_its_tokens_without_padding(
    similarity: ModuleType, load: Callable[..., Any], kind: str, end: int
) -> None:
    """By hand: the states up to the end mark. T5 pads with another token, of which one is kept."""
    clip = load(kind=kind)
    tokens = clip.tokenize(CAPTIONS[2])
    ids = [token for token, _ in tokens["t5xxl" if kind == "FLUX" else "l"][0]]
    kept = ids.index(end) + (2 if kind == "FLUX" else 1)
    assert kept < 15 < len(ids)
    mean = clip.encode_from_tokens(tokens)[0, :kept].mean(0)
    vector = similarity.caption_vector(clip, CAPTIONS[2])
    torch.testing.assert_close(vector, mean / mean.norm())


def test_captions_are_alike_when_they_say_the_same(
    similarity: ModuleType, load: Callable[..., Any]
) -> None:
    clip = load(kind="FLUX")
    vectors = [similarity.caption_vector(clip, text) for text in (*CAPTIONS, CAPTIONS[0])]
    found = similarity.cosines(vectors[3], vectors[:3])
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert max(found[1:]) < 1.0 - 1e-4


def test_what_all_captions_share_is_taken_away(similarity: ModuleType) -> None:
    """Four texts that are nearly one direction: as they are all cosines are above 0.9."""
    own = torch.eye(4, 5)
    vectors = [torch.nn.functional.normalize(one * 0.3 + torch.eye(5)[4], dim=0) for one in own]
    assert min(similarity.cosines(vectors[0], vectors)) > 0.9
    common = similarity.common_part(vectors)
    freed = [similarity.without_common_part(one, common) for one in vectors]
    assert similarity.cosines(freed[0], freed) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_of_few_captions_nothing_is_taken_away(similarity: ModuleType) -> None:
    vectors = list(torch.eye(3, 5))
    common = similarity.common_part(vectors)
    assert torch.equal(common, torch.zeros(5))
    assert torch.equal(similarity.without_common_part(vectors[0], common), vectors[0])
    assert similarity.without_common_part(common, common).tolist() == [0.0] * 5


def test_padding_is_told_from_words(similarity: ModuleType) -> None:
    def mask(*chunks: list[Any]) -> list[bool]:
        tokens = {"x": [[(one, 1.0) for one in chunk] for chunk in chunks]}
        return similarity.token_mask(tokens, sum(map(len, chunks))).tolist()

    assert mask([1, 7, 8, 2, 2, 2]) == [True, True, True, True, False, False]
    assert mask([1, 7, 8, 2, 0, 0, 0]) == [True, True, True, True, True, False, False]
    assert mask([9, 9, 9, 7, 8, 2]) == [False, False, True, True, True, True]
    assert mask([1, 7, 2, 2], [1, 8, 8, 2]) == [True, True, True, False, True, True, True, True]
    assert similarity.token_mask({"x": [[(1, 1.0)]]}, 5).tolist() == [True] * 5
