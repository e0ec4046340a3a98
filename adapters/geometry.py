"""The shape of a model's latents, read from the loaded model and checked against its VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..planning.frames import FrameGrid

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE


@dataclass(frozen=True)
class LatentGeometry:
    """Channels of a latent, pixels a latent cell covers (per side), and the frame grid."""

    channels: int
    pixels_per_latent: int
    grid: FrameGrid

    def latent_shape(
        self, latent_frames: int, height: int, width: int
    ) -> tuple[int, int, int, int, int]:
        """Shape b c t h w of one clip; height and width in pixels."""
        for name, pixels in (("width", width), ("height", height)):
            if pixels < self.pixels_per_latent or pixels % self.pixels_per_latent:
                raise ValueError(
                    f"{name} must be a multiple of {self.pixels_per_latent} for this model, "
                    f"got {pixels}"
                )
        return (
            1,
            self.channels,
            latent_frames,
            height // self.pixels_per_latent,
            width // self.pixels_per_latent,
        )


def read_geometry(model: ModelPatcher) -> LatentGeometry:
    """Read the geometry from the model's own `latent_format`; refuses models of images or sound."""
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_dimensions != 3:
        raise ValueError(
            f"model must make video latents (b c t h w), got {type(model.model).__name__}, whose "
            f"latents have {latent_format.latent_dimensions} dimensions"
        )
    return LatentGeometry(
        channels=latent_format.latent_channels,
        pixels_per_latent=latent_format.spacial_downscale_ratio,
        grid=FrameGrid(latent_format.temporal_downscale_ratio),
    )


def check_vae(geometry: LatentGeometry, vae: VAE) -> None:
    """Refuse a VAE whose latents are not the model's: channels, spatial and temporal stride."""
    channels = vae.latent_channels
    if channels != geometry.channels or vae.latent_dim != 3:
        raise ValueError(
            f"vae must make the model's latents ({geometry.channels} channels, video), got a VAE "
            f"with {channels} channels and {vae.latent_dim} dimensions"
        )
    pixels = vae.spacial_compression_encode()
    if pixels != geometry.pixels_per_latent:
        raise ValueError(
            f"vae must shrink pixels {geometry.pixels_per_latent} times for this model, "
            f"got a VAE that shrinks {pixels} times"
        )
    frames = vae.temporal_compression_decode()
    if frames is not None and frames != geometry.grid.frames_per_latent:
        raise ValueError(
            f"vae must group {geometry.grid.frames_per_latent} frames for this model, "
            f"got a VAE that groups {frames}"
        )
