"""What the socket TL_MEMORY carries: a bank of remembered entries and the way to add to it.

Ways to remember ("forms"): `encoder`, one or several trained history encoders whose tokens add up;
and without training `low` (small pictures through the model's own VAE and projection), `framepack`
(larger patches, memory/packing.py) and `window` (whole latent frames).

Latents `b c t h w` come in the VAE's latent space, as ComfyUI's LATENT has them, and are remembered
in the model's input space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import blake3
import comfy.model_management
import torch
from torch import Tensor

from ..memory.bank import MemoryBank, MemoryEntry, MemoryPiece
from ..memory.encoder import EncoderConfig, EncoderState
from ..memory.packing import FRAMEPACK_BUCKETS, packed_spans
from ..memory.pooling import averaged_latents, packed_latents
from ..memory.positions import memory_positions
from ..memory.rates import Rate, divide
from ..planning.recall import RecallPolicy
from .cache import CachedTensor, LatentCache
from .encoders import LoadedEncoder
from .low_resolution import decoded_frames, small_picture_latents

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

Form = Literal["encoder", "low", "framepack", "window"]

WINDOW_LATENT_FRAMES = 8
"""Of a window that does not say: the sliding window that the paper compares with (v6, table C)."""

ANCHOR_LATENT_FRAMES = 1
"""Whole latent frames kept of a pinned entry by `window` and `framepack`: the first, which drifted
least. FramePack keeps its start latent the same way (demo_gradio_f1.py)."""

WHOLE = Rate(1, 1, 1)
THUMBNAIL_SIDE = 128
"""Longest side of an entry's picture in pixels (our choice)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HistoryClip:
    """Something to remember.

    `latents` (1 c t h w, VAE's space) of which the first `handed` are the end of the clip before
    (`continues`). `caption` are text states 1 n d or None. `frames` are the clip's own pictures
    [n, h, w, 3] where they are known, so that nothing is decoded.
    """

    latents: Tensor
    title: str
    shot: int
    start: int
    pinned: bool
    handed: int = 0
    continues: bool = False
    text: str = ""
    caption: Tensor | None = None
    frames: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """The value on TL_MEMORY. `bank` holds what was given; a film's own segments are added to it by
    a `HistoryWriter` while the film is made.

    `rate` is that of `low`, `window` the latent frames of `window`. `latent_format` is core's, of
    the video model; `dtype` the type that tokens are kept in. `latent_size` (height, width) of what
    the bank was made from, None while it is empty.
    """

    bank: MemoryBank
    form: Form
    encoders: tuple[LoadedEncoder, ...]
    rate: Rate
    window: int
    vae: VAE
    vae_digest: str
    latent_format: Any
    patch: tuple[int, int, int]
    dtype: torch.dtype
    cache: LatentCache
    policy: RecallPolicy
    latent_size: tuple[int, int] | None = None

    @property
    def patcher(self) -> ModelPatcher:
        """By this name ComfyUI finds the models of a node's output."""
        return self.cache.patcher

    @property
    def trained(self) -> bool:
        return bool(self.encoders)

    @property
    def recent_latent_frames(self) -> int:
        """How many of the newest latent frames become one entry, 0 where each segment is one."""
        if self.form == "framepack":
            return sum(bucket.latent_frames for bucket in FRAMEPACK_BUCKETS)
        return self.window if self.form == "window" else 0

    def recalling(self, latent_frames: int) -> Memory:
        """The same memory, reaching back this many latent frames."""
        return replace(self, policy=replace(self.policy, latent_frames=latent_frames))

    def describe(self) -> dict[str, Any]:
        """Everything that affects pixels, as JSON data."""
        policy = self.policy
        return {
            "form": self.form,
            "encoders": [encoder.card.digest for encoder in self.encoders],
            "rate": str(self.rate),
            "window": self.recent_latent_frames,
            "recent": policy.recent,
            "latent_frames": policy.latent_frames,
            "given": [
                [entry.start, *(piece.key for piece in entry.pieces)] for entry in self.bank.entries
            ],
        }

    def view(self, bank: MemoryBank) -> ModelPatcher:
        """The cache's patcher with exactly the tensors of `bank`, to be loaded with a model."""
        return self.cache.view(
            f"{piece.key}-{part}"
            for entry in bank.entries
            for piece in entry.pieces
            for part, leaf in (("low", piece.low), ("fine", piece.fine))
            if leaf is not None
        )


@dataclass(frozen=True, eq=False)
class TakeState:
    """How far one encoder has come in a take: its own state, the pictures of the latent frames that
    do not fill a cell yet, and a hash of all that came before."""

    encoder: EncoderState
    pictures: Tensor | None
    key: str


NEW_TAKE = TakeState(EncoderState(), None, "")


@dataclass(frozen=True, eq=False)
class Written:
    """An entry; `open` are keys of pieces that hold until the take goes on."""

    entry: MemoryEntry
    open: frozenset[str]


class HistoryWriter:
    """Encodes the clips of one history, each once. Lives as long as the run that it serves.

    `clip_of(index)` gives the clip at a place of the history; it is asked for only when needed.
    """

    def __init__(self, memory: Memory, clip_of: Callable[[int], HistoryClip]) -> None:
        self._memory, self._clip_of = memory, clip_of
        self._written: dict[int, Written] = {}
        self._states: tuple[int, tuple[TakeState, ...]] = (-1, ())

    def bank(self, indices: Sequence[int]) -> MemoryBank:
        """What the memory was given and the clips at these places, in order of time."""
        memory = self._memory
        if memory.recent_latent_frames == 0:
            entries = [self._settled(index, indices) for index in indices]
        else:
            clips = {index: self._clip_of(index) for index in indices}
            pinned = [index for index, clip in clips.items() if clip.pinned]
            entries = [self._entry(index).entry for index in pinned]
            newest = [clip for clip in clips.values() if not clip.pinned]
            entries += [recent_entry(memory, newest)] if newest else []
        return memory.bank.with_entries(entries)

    def _settled(self, index: int, indices: Sequence[int]) -> MemoryEntry:
        """An entry without the cell that the next clip of its take completes."""
        written = self._entry(index)
        if not written.open or index + 1 not in indices:
            return written.entry
        if not self._clip_of(index + 1).continues:
            return written.entry
        kept = (piece for piece in written.entry.pieces if piece.key not in written.open)
        return replace(written.entry, pieces=tuple(kept))

    def _entry(self, index: int) -> Written:
        if index not in self._written:
            clip = self._clip_of(index)
            written, states = write_clip(self._memory, clip, self._states_before(index, clip))
            self._written[index] = written
            self._states = (index, states)
        return self._written[index]

    def _states_before(self, index: int, clip: HistoryClip) -> tuple[TakeState, ...]:
        """The encoders' states at the end of the clip before; a take is walked from its start
        where they are not at hand."""
        new = tuple(NEW_TAKE for _ in self._memory.encoders)
        if not clip.continues or self._memory.policy.stream == "segment" or not index:
            return new
        if self._states[0] != index - 1:
            before = self._clip_of(index - 1)
            states = self._states_before(index - 1, before)
            _, states = write_clip(self._memory, before, states)
            self._states = (index - 1, states)
        return self._states[1]


def write_clip(
    memory: Memory, clip: HistoryClip, states: tuple[TakeState, ...] | None = None
) -> tuple[Written, tuple[TakeState, ...]]:
    """Remember one clip as an entry; `states` are the encoders' at the end of the clip before."""
    if memory.policy.stream == "segment":
        clip = replace(clip, handed=0)
    new = clip.latents.shape[2] - clip.handed
    if new < 1:
        raise ValueError(f"history must be 1 latent frame or longer, {clip.title} has {new} new")
    content = content_key(clip)
    pieces: list[MemoryPiece] = []
    opened: list[str] = []
    after = []
    if memory.form == "encoder":
        states = states or tuple(NEW_TAKE for _ in memory.encoders)
        for encoder, state in zip(memory.encoders, states, strict=True):
            made, is_open, state = encoded_pieces(memory, encoder, clip, content, state)
            pieces += made
            opened += is_open
            after.append(state)
    elif memory.form == "low":
        pieces.append(low_piece(memory, clip, content))
    else:
        kept = clip.latents[:, :, clip.handed :][:, :, :ANCHOR_LATENT_FRAMES]
        pieces.append(whole_piece(memory, kept, content))
    entry = MemoryEntry(
        key=content,
        title=clip.title,
        caption=clip.text,
        shot=clip.shot,
        start=clip.start + clip.handed,
        latent_frames=new,
        pinned=clip.pinned,
        picture=None,
        pieces=tuple(pieces),
    )
    return Written(entry, frozenset(opened)), tuple(after)


def recent_entry(memory: Memory, clips: Sequence[HistoryClip]) -> MemoryEntry:
    """The newest latent frames of neighbouring clips as one entry: packed, or whole."""
    film = torch.cat([clip.latents[:, :, clip.handed :] for clip in clips], dim=2)
    end = clips[-1].start + clips[-1].latents.shape[2]
    film = film[:, :, -memory.recent_latent_frames :]
    content = digest(tensor_bytes(film))
    if memory.form == "window":
        pieces = [whole_piece(memory, film, content)]
    else:
        pieces = packed_pieces(memory, film, content)
    return MemoryEntry(
        key=content,
        title="recent frames",
        caption="",
        shot=clips[-1].shot,
        start=end - film.shape[2],
        latent_frames=film.shape[2],
        pinned=False,
        picture=None,
        pieces=tuple(pieces),
    )


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
    held = (memory.cache.get(f"{key}-low"), memory.cache.get(f"{key}-fine"))
    if card.stream == "segment" and None not in held:
        made = piece_of(key, form, card.rate, positions, low=held[0], fine=held[1])
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
        fine_leaf = keep(memory, f"{name}-fine", fine)
        low_leaf = keep(memory, f"{name}-low", low[:, :, first : first + cells])
        per_cell = fine.shape[1] // cells
        where = positions[first * per_cell : (first + cells) * per_cell]
        pieces.append(piece_of(name, form, card.rate, where, low=low_leaf, fine=fine_leaf))
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
) -> MemoryPiece:
    """A piece of leaves of the cache."""
    return MemoryPiece(
        key=key, form=form, rate=rate, low=low, fine=fine, hidden=None, positions=positions
    )


def grid_config(memory: Memory, rate: Rate) -> EncoderConfig:
    """The grid of a form without an encoder, in the terms of one."""
    channels = int(memory.latent_format.latent_channels)
    return EncoderConfig(in_channels=channels, inner_dim=1, rate=rate, patch=memory.patch)


def in_model_space(memory: Memory, latents: Tensor) -> Tensor:
    """Latents of the VAE in the video model's input space, float32."""
    return memory.latent_format.process_in(latents.float())


def content_key(clip: HistoryClip) -> str:
    """A hash of what of a clip is remembered."""
    return digest(tensor_bytes(clip.latents), str(clip.handed))


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


def empty_bank(memory_encoders: Sequence[LoadedEncoder]) -> MemoryBank:
    """A bank of the encoders' rope mode. Raises ValueError when they were trained in two modes."""
    modes = {encoder.card.rope_mode for encoder in memory_encoders} or {"history_negative"}
    if len(modes) > 1:
        names = " and ".join(encoder.card.name for encoder in memory_encoders)
        raise ValueError(f"encoders must share one rope mode, {names} were trained in two")
    return MemoryBank(entries=(), rope_mode=modes.pop(), trained=bool(memory_encoders))


def remember(memory: Memory, clips: Sequence[HistoryClip]) -> Memory:
    """The memory with these clips in its bank, each with a thumbnail; the given one stays as it is.

    Raises ValueError for clips of another size than what is remembered.
    """
    size = memory.latent_size
    for clip in clips:
        own = (clip.latents.shape[3], clip.latents.shape[4])
        size = size or own
        if own != size:
            scale = memory.vae.spacial_compression_encode()
            raise ValueError(
                f"history must be of one size, {clip.title} has {own[1] * scale} x "
                f"{own[0] * scale} pixels and the others have {size[1] * scale} x {size[0] * scale}"
            )
    writer = HistoryWriter(memory, clips.__getitem__)
    bank = writer.bank(range(len(clips)))
    pictures = {clip.start + clip.latents.shape[2]: clip for clip in clips}
    entries = [
        replace(entry, picture=thumbnail(memory.vae, pictures[entry.stop]))
        if entry.picture is None and entry.stop in pictures
        else entry
        for entry in bank.entries
    ]
    return replace(memory, bank=replace(bank, entries=tuple(entries)), latent_size=size)


def thumbnail(vae: VAE, clip: HistoryClip) -> Tensor:
    """A small picture h w 3 in 0..1 of the middle of a clip, decoded alone."""
    if clip.frames is not None:
        frame = clip.frames[len(clip.frames) // 2, ..., :3]
    else:
        middle = clip.latents.shape[2] // 2
        frames = vae.decode(clip.latents[:, :, middle : middle + 1])
        frame = frames.reshape(-1, *frames.shape[-3:])[-1, ..., :3].clamp(0.0, 1.0).float().cpu()
    scale = min(1.0, THUMBNAIL_SIDE / max(frame.shape[:2]))
    size = [max(1, round(side * scale)) for side in frame.shape[:2]]
    small = torch.nn.functional.interpolate(frame.movedim(-1, 0)[None], size=size, mode="area")
    return small[0].movedim(0, -1)  # c h w -> h w c
