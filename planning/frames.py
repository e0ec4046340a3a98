"""Video frames and latent frames: the only place where one is turned into the other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameGrid:
    """How a causal video VAE groups frames: the first stands alone, then `frames_per_latent` each.

    A clip of n latent frames has `frames_per_latent * (n - 1) + 1` frames (Wan and HunyuanVideo
    4n+1, LTXV 8n+1). The stride is read from the loaded model's `latent_format`.
    """

    frames_per_latent: int

    def __post_init__(self) -> None:
        if self.frames_per_latent < 1:
            raise ValueError(f"frames per latent must be 1 or more, got {self.frames_per_latent}")

    def frames(self, latent_frames: int) -> int:
        """Frames of a clip of `latent_frames` latent frames (1 or more)."""
        if latent_frames < 1:
            raise ValueError(f"a clip needs 1 latent frame or more, got {latent_frames}")
        return self.frames_per_latent * (latent_frames - 1) + 1

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of `frames` frames; refuses a count off the grid."""
        groups, rest = divmod(frames - 1, self.frames_per_latent)
        if frames < 1 or rest:
            raise ValueError(f"this model takes {self.frames_per_latent}n+1 frames, got {frames}")
        return groups + 1

    def new_latent_frames(self, seconds: float, fps: float) -> int:
        """Latent frames that add about `seconds` to a film, at least one."""
        return max(1, round(seconds * fps / self.frames_per_latent))
