"""The parts of a video model's folder in diffusers' layout, safetensors only, nothing downloaded.

`transformer/`, `vae/`, `text_encoder/`, `tokenizer/`, each with its `config.json`; the class named
there says which code trains it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .hunyuan_memory_model import Hunyuan15MemoryModel, HunyuanMemoryModel
from .libraries import library
from .memory_model import MemoryModel, WanMemoryModel

MEMORY_MODELS: dict[str, Callable[[Any], MemoryModel]] = {
    "WanTransformer3DModel": WanMemoryModel,
    "HunyuanVideoTransformer3DModel": HunyuanMemoryModel,
    "HunyuanVideo15Transformer3DModel": Hunyuan15MemoryModel,
}
"""What trains which class of diffusers."""

WAN_TEXT_TOKENS = 512
"""Text states that Wan reads, zeros behind the caption's (diffusers, WanPipeline.__call__)."""


def part_class(folder: Path, part: str) -> str:
    """The class in `folder/part/config.json`. Raises ValueError when there is none."""
    path = folder / part / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder of a diffusers model: it lacks {part}/config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    return str(config.get("_class_name") or config.get("architectures", ["unknown"])[0])


def load_memory_model(
    folder: Path, part: str, dtype: torch.dtype, device: torch.device
) -> MemoryModel:
    """The frozen transformer of a folder. Raises ValueError for a class that is not known here."""
    name = part_class(folder, part)
    if name not in MEMORY_MODELS:
        known = ", ".join(MEMORY_MODELS)
        raise ValueError(f"{folder / part} holds a {name}; what can be trained is {known}")
    transformer = getattr(library("diffusers"), name).from_pretrained(
        folder,
        subfolder=part,
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
    )
    return MEMORY_MODELS[name](transformer.to(device))


class WanCodec:
    """Video to latents in the model's input space, and captions to text states.

    Raises ValueError for a folder of another family.
    """

    text_tokens = WAN_TEXT_TOKENS

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        name = part_class(folder, "vae")
        if name != "AutoencoderKLWan":
            raise ValueError(
                f"videos are encoded with AutoencoderKLWan, {folder / 'vae'} holds a {name}; "
                "encode them with the model's own pipeline and give the stories by --stories"
            )
        diffusers, transformers = library("diffusers"), library("transformers")
        places = {"use_safetensors": True, "local_files_only": True}
        # the class's own precision: bfloat16 softens what the VAE gives (diffusers, WanPipeline)
        vae = diffusers.AutoencoderKLWan.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32, **places
        )
        self.vae = vae.to(device).requires_grad_(False)
        text = transformers.UMT5EncoderModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=dtype, **places
        )
        self.text_encoder = text.to(device).requires_grad_(False)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, subfolder="tokenizer", local_files_only=True
        )
        self.device = device

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return int(self.vae.config.scale_factor_spatial)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""
        return int(self.vae.config.scale_factor_temporal)

    @torch.no_grad()
    def latents(self, clip: Tensor) -> Tensor:
        """Latents `b c t h w` of clips `b 3 frames height width` in -1..1, on the CPU."""
        encoded = self.vae.encode(clip.to(self.device)).latent_dist.mode()
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return ((encoded - mean) / std).cpu()

    @torch.no_grad()
    def text(self, captions: list[str]) -> Tensor:
        """Text states `b n d`, as long as the longest caption, zeros behind the others'."""
        cleaned = [re.sub(r"\s+", " ", caption).strip() for caption in captions]
        given = self.tokenizer(
            cleaned,
            padding="longest",
            max_length=self.text_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        mask = given.attention_mask
        states = self.text_encoder(given.input_ids, mask).last_hidden_state
        return (states.float() * mask[..., None]).cpu()


FLUX_TEXT_TOKENS = 77
"""Tokens of the CLIP text encoder (diffusers, FluxPipeline)."""


def load_flux(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The frozen transformer of a Flux folder. Raises ValueError for another class."""
    name = part_class(folder, "transformer")
    if name != "FluxTransformer2DModel":
        raise ValueError(
            "interleaved keyframes are trained on FluxTransformer2DModel, "
            f"{folder / 'transformer'} holds a {name}"
        )
    return (
        library("diffusers")
        .FluxTransformer2DModel.from_pretrained(
            folder,
            subfolder="transformer",
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
        )
        .to(device)
    )


class FluxCodec:
    """Pictures to latents in Flux's input space, and captions to what its two encoders give.

    Raises ValueError for a folder of another family.
    """

    def __init__(
        self, folder: Path, text_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        name = part_class(folder, "vae")
        if name != "AutoencoderKL":
            raise ValueError(
                f"keyframes are encoded with AutoencoderKL, {folder / 'vae'} holds a {name}"
            )
        diffusers, transformers = library("diffusers"), library("transformers")
        places = {"use_safetensors": True, "local_files_only": True}
        vae = diffusers.AutoencoderKL.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32, **places
        )
        clip = transformers.CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=dtype, **places
        )
        t5 = transformers.T5EncoderModel.from_pretrained(
            folder, subfolder="text_encoder_2", dtype=dtype, **places
        )
        self.vae, self.clip, self.t5 = (
            part.to(device).requires_grad_(False) for part in (vae, clip, t5)
        )
        self.clip_tokenizer, self.t5_tokenizer = (
            transformers.AutoTokenizer.from_pretrained(
                folder, subfolder=part, local_files_only=True
            )
            for part in ("tokenizer", "tokenizer_2")
        )
        self.text_tokens, self.device = text_tokens, device

    @property
    def unit(self) -> int:
        """Pixels along a side of one token: two latent cells."""
        return 2 * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """Latents `n c h w` of pictures `n 3 height width` in -1..1, on the CPU."""
        encoded = self.vae.encode(pictures.to(self.device)).latent_dist.mode()
        return ((encoded - self.vae.config.shift_factor) * self.vae.config.scaling_factor).cpu()

    @torch.no_grad()
    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """T5's states `n text_tokens d` and CLIP's pooled ones `n d`, on the CPU."""
        ids = self.t5_tokenizer(
            captions,
            padding="max_length",
            max_length=self.text_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        states = self.t5(ids).last_hidden_state
        clip_ids = self.clip_tokenizer(
            captions,
            padding="max_length",
            max_length=FLUX_TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        return states.float().cpu(), self.clip(clip_ids).pooler_output.float().cpu()
