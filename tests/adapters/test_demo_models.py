"""The shipped models load through core's own loaders, and each does its work once."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from throughline.adapters import demo_models
from throughline.training.evaluate import (
    SamplingSettings,
    continue_take,
    grey_clip,
    sample_continuation,
    vae_psnr,
)
from throughline.training.world import long_take

LARGEST_FILE = 20 * 2**20  # bytes; they lie in the repository


@pytest.fixture(scope="module")
def models(comfy: ModuleType) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE as the demo's loader gives them."""
    return demo_models.load_demo_models()


def test_the_model_is_a_wan_of_the_shipped_sizes(models: tuple[Any, Any, Any]) -> None:
    import comfy.model_base
    import comfy.utils

    model = models[0].model
    assert type(model) is comfy.model_base.WAN21
    state = comfy.utils.load_torch_file(str(demo_models.VIDEO_FILE))
    assert set(model.diffusion_model.state_dict()) == set(state)
    assert model.diffusion_model.patch_embedding.weight.shape[1] == 36
    assert model.diffusion_model.num_heads == 4


def test_the_vae_has_every_tensor_of_the_file(models: tuple[Any, Any, Any]) -> None:
    import comfy.utils

    state = comfy.utils.load_torch_file(str(demo_models.VAE_FILE))
    assert set(models[2].first_stage_model.state_dict()) == set(state)


@pytest.mark.parametrize(
    "text",
    [
        "harbour, Mara left, camera 3 to 7",
        "",
        "a dragon over (the harbour:1.3), ((Mara)) \\(left\\) [x]",
        "harbour " * 200,
    ],
)
def test_texts_are_encoded(models: tuple[Any, Any, Any], text: str) -> None:
    clip = models[1]
    for encoder in (clip, clip.clone()):
        (features, options), *more = encoder.encode_from_tokens_scheduled(encoder.tokenize(text))
        assert not more and options["pooled_output"] is None
        assert features.shape[0] == 1 and features.shape[2] == 128
        assert 16 <= features.shape[1] <= 64
        assert bool(features.isfinite().all())


def test_the_core_node_encodes_a_text(models: tuple[Any, Any, Any]) -> None:
    import nodes

    ((conditioning,),) = (nodes.CLIPTextEncode().encode(models[1], "garden, empty, camera 1 to 1"),)
    assert conditioning[0][0].shape == (1, 16, 128)


def test_words_are_lower_cased_and_weighted(models: tuple[Any, Any, Any]) -> None:
    def encode(text: str) -> torch.Tensor:
        return models[1].encode_from_tokens(models[1].tokenize(text))

    assert torch.equal(encode("Harbour, EMPTY"), encode("harbour , empty"))
    assert not torch.equal(encode("harbour"), encode("garden"))
    plain, weighted = encode("harbour, empty"), encode("(harbour:1.5), empty")
    assert not torch.equal(plain[:, 1], weighted[:, 1])
    assert torch.allclose(plain[:, 2:], weighted[:, 2:], atol=1e-6)
    assert torch.equal(encode("dragon"), encode("unicorn"))


def test_the_tokenizer_numbers_its_words(models: tuple[Any, Any, Any]) -> None:
    tokens = models[1].tokenize("harbour, empty", return_word_ids=True)
    triples = tokens[demo_models.TOKENS_KEY][0]
    assert [word_id for _, _, word_id in triples[:5]] == [0, 1, 2, 3, 0]
    words = [word for _, word in models[1].tokenizer.untokenize(triples[:4])]
    assert words == ["<start>", "harbour", ",", "empty"]


def test_a_held_out_clip_survives_the_vae(models: tuple[Any, Any, Any]) -> None:
    assert vae_psnr(models[2], [1000], latent_frames=5)[0] >= 25.0


def test_four_steps_give_the_same_finite_video(models: tuple[Any, Any, Any]) -> None:
    take = long_take(1000, 1)
    frames = [continue_take(*models, take, 7, SamplingSettings(steps=4))[0] for _ in range(2)]
    assert frames[0].shape == (21, 64, 64, 3)
    assert np.array_equal(*frames)
    assert frames[0].std() > 10  # a picture, not one colour


def test_a_video_from_text_alone(models: tuple[Any, Any, Any]) -> None:
    model, clip, vae = models
    latents = sample_continuation(
        model,
        clip,
        "garden, empty, camera 1 to 4",
        None,
        grey_clip(vae, 4),
        0,
        SamplingSettings(steps=2),
    )
    assert latents.shape == (1, 16, 4, 8, 8)
    assert bool(latents.isfinite().all())


def test_folders_are_registered(comfy: ModuleType) -> None:
    import folder_paths

    demo_models.register_weight_folders()
    assert demo_models.VAE_FILE.name in folder_paths.get_filename_list("vae")
    assert demo_models.VIDEO_FILE.name in folder_paths.get_filename_list("diffusion_models")
    assert demo_models.TEXT_FILE.name in folder_paths.get_filename_list("text_encoders")


def test_files_are_small_and_bfloat16(comfy: ModuleType) -> None:
    import comfy.utils

    for path in (demo_models.VAE_FILE, demo_models.VIDEO_FILE, demo_models.TEXT_FILE):
        assert path.stat().st_size < LARGEST_FILE
        dtypes = {tensor.dtype for tensor in comfy.utils.load_torch_file(str(path)).values()}
        assert dtypes == {torch.bfloat16}


def test_wrong_files_are_refused_by_name(comfy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.safetensors: no such file"):
        demo_models.load_demo_text_encoder(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="text.ckpt: only safetensors"):
        demo_models.load_demo_text_encoder(tmp_path / "text.ckpt")
    strange = tmp_path / "strange.safetensors"
    save_file({"weight": torch.zeros(1)}, strange)
    with pytest.raises(ValueError, match="strange.safetensors: .* must hold text.vocabulary"):
        demo_models.load_demo_text_encoder(strange)
    with pytest.raises(ValueError, match="strange.safetensors: .* must hold 'transformer'"):
        demo_models.load_demo_video_model(strange)
    config = '{"text": {"vocabulary": ["<pad>", "<unknown>", "<start>"]}}'
    save_file({"weight": torch.zeros(1)}, strange, {"config": config})
    with pytest.raises(ValueError, match="strange.safetensors: .* other tensors"):
        demo_models.load_demo_text_encoder(strange)
