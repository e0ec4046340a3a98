"""A remembered clip as pieces: tokens of an encoder, small pictures, larger patches, whole frames.

The tensors of a piece are leaves of the memory's cache under a hash of all that they follow from,
so that nothing is encoded or held twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import blake3
import comfy.model_management
import torch
from torch import Tensor

from ..memory.bank import MemoryPiece
from ..memory.encoder import EncoderConfig, EncoderState, as_tokens
from ..memory.packing import packed_spans
from ..memory.pooling import averaged_latents, packed_latents
from ..memory.positions import memory_positions
from ..memory.rates import Rate, divide
from .cache import CachedTensor
from .encoders import LoadedEncoder
from .low_resolution import decoded_frames, small_picture_latents
from .memory_value import HistoryClip, Memory

WHOLE = Rate(1, 1, 1)


@dataclass(frozen=True, eq=False)
class TakeState:
    """How far one encoder has come in a take: its own state, the pictures of the latent frames that
    do not fill a cell yet, and a hash of all that came before."""

    encoder: EncoderState
    pictures: Tensor | None
    key: str


NEW_TAKE = TakeState(EncoderState(), None, "")


def low_piece(memory: Memory, clip: HistoryClip, content: str) -> MemoryPiece:
    """Small pictures alone, at the memory's rate."""
    config = grid_config(memory, memory.rate)
    latents = clip.latents[:, :, clip.handed :]
    positions = memory_positions(config.token_grid(latents.shape), memory.rate, "ceil")
    key = digest("low", str(memory.rate), memory.vae_digest, content)
    held = memory.cache.get(f"{key}-low")
    if held is None:
        low, _ = picture_latents(memory, config, clip, None)
        held = keep(memory, f"{key}-low", in_model_space(memory, low))
    return piece_of(key, f"low {memory.rate}", memory.rate, positions, low=held)


def whole_piece(memory: Memory, latents: Tensor, content: str) -> MemoryPiece:
    """Latent frames as they are: one token of the model each."""
    grid = grid_config(memory, WHOLE).token_grid(latents.shape)
    key = digest("whole", content, str(latents.shape[2]))
    low = keep(memory, f"{key}-low", in_model_space(memory, latents))
    positions = memory_positions(grid, WHOLE, "ceil")
    return piece_of(key, memory.form, WHOLE, positions, low=low)


def packed_pieces(memory: Memory, film: Tensor, content: str) -> list[MemoryPiece]:
    """The newest frames in FramePack's buckets, older ones at larger patches."""
    pieces, latents = [], in_model_space(memory, film)
    whole = grid_config(memory, WHOLE).token_grid(film.shape)
    for span in packed_spans(film.shape[2]):
        part = latents[:, :, span.first : span.stop]
        key = digest("packed", content, str(span), *(e.card.digest for e in memory.encoders))
        grid = span.grid(whole.height, whole.width)
        positions = memory_positions(grid, span.rate, "ceil", span.first)
        trained = next((e for e in memory.encoders if span.rate in e.card.rates), None)
        low = fine = None
        if trained is None:
            low = keep(memory, f"{key}-low", packed_latents(part, span.rate, memory.patch))
        else:
            fine = keep(memory, f"{key}-fine", run_packer(trained, part, span.rate))
        form = f"framepack {span.rate}"
        pieces.append(piece_of(key, form, span.rate, positions, low=low, fine=fine))
    return pieces


def encoded_pieces(
    memory: Memory, loaded: LoadedEncoder, clip: HistoryClip, content: str, state: TakeState
) -> tuple[list[MemoryPiece], list[str], TakeState]:
    """A clip's pieces by one encoder, keys of those that hold until the take goes on, and the state
    at its end."""
    card, config = loaded.card, loaded.card.config
    latents = in_model_space(memory, clip.latents[:, :, clip.handed :])
    caption = fitting_caption(clip, card.caption_dim)
    said = "" if caption is None else digest(tensor_bytes(caption))
    key = digest(
        card.digest, memory.vae_digest, str(memory.dtype), content, said, state.key, card.stream
    )
    waiting = 0 if state.encoder.pending is None else state.encoder.pending.shape[2]
    total = waiting + latents.shape[2]
    shape = (1, latents.shape[1], total, *latents.shape[3:])
    positions = memory_positions(
        config.token_grid(shape), card.rate, card.rounding, float(-waiting)
    )
    form = f"encoder {card.rate}"
    addresses = token_addresses(loaded, caption, shape, float(clip.handed - waiting))
    kept = ("low", "fine") if loaded.cross_attention is None else ("low", "fine", "hidden")
    held = {part: memory.cache.get(f"{key}-{part}") for part in kept}
    if card.stream == "segment" and None not in held.values():
        made = piece_of(key, form, card.rate, positions, **held, addresses=addresses)
        return [made], [], NEW_TAKE
    settled, rest, after = run_encoder(loaded, latents, caption, state.encoder)
    low, pictures = low_branch(memory, loaded, clip, latents, state)
    parts = {key: (settled, 0), f"{key}-open": (rest, total // card.rate.time)}
    if card.stream == "segment":
        joined = torch.cat([part for part in (settled, rest) if part is not None], dim=2)
        parts = {key: (joined, 0)}
    pieces = []
    for name, (hidden, first) in parts.items():
        if hidden is None:
            continue
        cells = hidden.shape[2]
        fine = fine_tokens(loaded, hidden)
        tensors = {"low": low[:, :, first : first + cells], "fine": fine}
        if loaded.cross_attention is not None:
            tensors["hidden"] = as_tokens(hidden)
        leaves = {part: keep(memory, f"{name}-{part}", made) for part, made in tensors.items()}
        per_cell = fine.shape[1] // cells
        span = slice(first * per_cell, (first + cells) * per_cell)
        found = None if addresses is None else addresses[span]
        pieces.append(piece_of(name, form, card.rate, positions[span], **leaves, addresses=found))
    opened = [piece.key for piece in pieces if piece.key.endswith("-open")]
    return pieces, opened, TakeState(after, pictures, key)


def low_branch(
    memory: Memory, loaded: LoadedEncoder, clip: HistoryClip, latents: Tensor, state: TakeState
) -> tuple[Tensor, Tensor | None]:
    """The low-resolution latents of the cells that a clip touches, in the model's space, and the
    pictures of the latent frames that wait for their cell to fill."""
    if loaded.card.lr_mode == "pixel":
        low, pictures = picture_latents(memory, loaded.card.config, clip, state.pictures)
        return in_model_space(memory, low), pictures
    waiting = state.encoder.pending
    if waiting is not None:
        latents = torch.cat([waiting.to(latents), latents], dim=2)
    return averaged_latents(latents, loaded.card.config), None


def picture_latents(
    memory: Memory, config: EncoderConfig, clip: HistoryClip, waiting: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A small picture's latent for each cell, in the VAE's space, and the pictures of the latent
    frames that do not fill a cell.

    `waiting` are such pictures of the clip before. A cell's picture is that of the latent frame in
    its middle (memory/rates.py: cell_frames).
    """
    before = 0 if waiting is None else len(waiting)
    total = before + clip.latents.shape[2] - clip.handed
    time = config.rate.time
    cells, filled = divide(total, time, "ceil"), total // time * time
    middles = [min(time * cell + (time - 1) // 2, total - 1) for cell in range(cells)]
    wanted = sorted({*middles, *range(filled, total)})
    stride = memory.vae.temporal_compression_decode() or 1
    new = [stride * (clip.handed + index - before) for index in wanted if index >= before]
    if clip.frames is not None:
        pictures = clip.frames[new, ..., :3]
    else:
        pictures = decoded_frames(memory.vae, clip.latents, new)
    by_index = dict(zip((index for index in wanted if index >= before), pictures, strict=True))
    if waiting is not None:
        by_index |= {index: waiting[index] for index in wanted if index < before}
    small = small_picture_latents(
        memory.vae, torch.stack([by_index[middle] for middle in middles]), config
    )
    rest = [by_index[index] for index in range(filled, total)]
    return small, torch.stack(rest) if rest else None


@torch.no_grad()
def run_encoder(
    loaded: LoadedEncoder, latents: Tensor, caption: Tensor | None, state: EncoderState
) -> tuple[Tensor | None, Tensor | None, EncoderState]:
    """Hidden states of the cells that `latents` fill, those of a cell that stays open, and the
    state; on the encoder's device, in float32, under core's management."""
    device = loaded.patcher.load_device
    activations = loaded.card.widths[0] * latents[0, 0].numel() * ACTIVATION_COPIES
    comfy.model_management.load_models_gpu(
        [loaded.patcher], memory_required=activations * torch.float32.itemsize
    )
    latents = latents.to(device, torch.float32)
    caption = None if caption is None else caption.to(device, torch.float32)
    encoder = loaded.encoder
    done, after = encoder.append(state, latents, caption)
    return done, encoder.flush(after, caption, latents.shape[2]), after


ACTIVATION_COPIES = 4
"""Tensors of the size of the first convolution's output that live at once (it, its input, its
activation, the padded copy): what core is asked to make room for."""


@torch.no_grad()
def token_addresses(
    loaded: LoadedEncoder, caption: Tensor | None, shape: tuple[int, ...], first: float
) -> Tensor | None:
    """What the tokens of latents of this shape are found by, n w; None without a caption.

    `first` is how many latent frames into their segment they begin.
    """
    if caption is None or not loaded.card.address_dim:
        return None
    comfy.model_management.load_models_gpu([loaded.patcher])
    said = caption.to(loaded.patcher.load_device, torch.float32)
    grid = loaded.card.config.memory_grid(shape)
    return loaded.encoder.held_addresses(said, grid, first)[0].float().cpu()


@torch.no_grad()
def fine_tokens(loaded: LoadedEncoder, hidden: Tensor) -> Tensor:
    """The high-resolution branch as tokens `1 n d`."""
    return loaded.encoder.fine(hidden)


def fitting_caption(clip: HistoryClip, caption_dim: int) -> Tensor | None:
    """The clip's text states where the encoder reads captions of that width, else None."""
    if clip.caption is None or not caption_dim or clip.caption.shape[-1] != caption_dim:
        return None
    return clip.caption


@torch.no_grad()
def run_packer(loaded: LoadedEncoder, latents: Tensor, rate: Rate) -> Tensor:
    """Tokens `1 n d` of a trained packing."""
    comfy.model_management.load_models_gpu([loaded.patcher])
    return loaded.packer(rate)(latents.to(loaded.patcher.load_device, torch.float32))


def keep(memory: Memory, key: str, tensor: Tensor) -> CachedTensor:
    """Put a tensor, without its batch axis, into the cache in the memory's type.

    The cache holds what somebody holds: the caller keeps the leaf until its piece does.
    """
    held = memory.cache.get(key)
    if held is not None:
        return held
    return memory.cache.add(key, tensor[0].to("cpu", memory.dtype))


def piece_of(
    key: str,
    form: str,
    rate: Rate,
    positions: Tensor,
    low: CachedTensor | None = None,
    fine: CachedTensor | None = None,
    hidden: CachedTensor | None = None,
    addresses: Tensor | None = None,
) -> MemoryPiece:
    """A piece of leaves of the cache."""
    return MemoryPiece(
        key=key,
        form=form,
        rate=rate,
        low=low,
        fine=fine,
        hidden=hidden,
        positions=positions,
        addresses=addresses,
    )


def grid_config(memory: Memory, rate: Rate) -> EncoderConfig:
    """The grid of a form without an encoder, in the terms of one."""
    channels = int(memory.latent_format.latent_channels)
    return EncoderConfig(in_channels=channels, inner_dim=1, rate=rate, patch=memory.patch)


def in_model_space(memory: Memory, latents: Tensor) -> Tensor:
    """Latents of the VAE in the video model's input space, float32."""
    return memory.latent_format.process_in(latents.float())


def tensor_bytes(tensor: Tensor) -> bytes:
    """Shape, type and bytes of a tensor."""
    plain = tensor.detach().cpu().contiguous()
    shape = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return shape + plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def digest(*parts: str | bytes) -> str:
    """BLAKE3 over parts, 32 hexadecimal digits; (a, b) and (ab) differ."""
    made = blake3.blake3()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:32]
