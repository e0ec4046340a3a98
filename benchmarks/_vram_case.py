"""One case of the bench `vram`, in a process of its own: build, remember, sample, measure.

    python -c START ROOT COMFYUI CASE_AS_JSON

prints the row as one line of JSON. A process each, because a peak and ComfyUI's kind of patcher
belong to a process.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

GIB = 1 << 30

WAN_14B = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 5120,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "text_dim": 4096,
    "num_heads": 40,
    "num_layers": 40,
    "in_dim": 16,
    "out_dim": 16,
}
"""Wan 2.1 T2V 14B as its release configures it (wan/configs/wan_t2v_14B.py)."""

WAN_1B = {**WAN_14B, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
"""Wan 2.1 T2V 1.3B (wan/configs/wan_t2v_1_3B.py)."""

CONFIGS = {"Wan 2.1 1.3B": WAN_1B, "Wan 2.1 14B": WAN_14B}

TEXT_TOKENS = 512
"""Tokens of a Wan prompt (`text_len` of the release)."""

TILE = 1 << 20
"""Random values that are drawn once and repeated: 14 thousand million draws would take minutes, and
neither memory nor time of a step depends on the values."""

WEIGHT_SCALE = 0.02
"""Standard deviation of the random matrices, as in the usual initialisation of transformers."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured. `patcher` is "plain" or "dynamic", `history_seconds` 0 for no memory.

    `config` overrides the model's own sizes and `cap_bytes` 0 means no cap: both for tests.
    """

    model: str
    dtype: str
    patcher: str
    history_seconds: int
    device: str = "cuda"
    cap_bytes: int = 12 * GIB
    width: int = 832
    height: int = 480
    frames: int = 81
    fps: int = 16
    rate: str = "4x4x2"
    segment_seconds: int = 5
    steps: int = 4
    cfg: float = 5.0
    seed: int = 0
    text_tokens: int = TEXT_TOKENS
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.model} {self.dtype} {self.patcher} {self.history_seconds} s"


def main(comfyui: str, root: str, text: str) -> None:
    """Measure the case that is written as JSON and print its row."""
    case = Case(**json.loads(text))
    row = _enter_host(comfyui, root, case) or measure(case)
    print(json.dumps(row), flush=True)


def _enter_host(comfyui: str, root: str, case: Case) -> dict[str, Any] | None:
    """Start ComfyUI's libraries as its main.py does; a row when this kind of patcher is missing."""
    import sys
    from pathlib import Path

    sys.path.insert(0, comfyui)
    from comfy.cli_args import args

    args.disable_api_nodes = True
    args.cpu = case.device == "cpu"
    if case.patcher == "dynamic":
        import comfy_aimdo.control

        comfy_aimdo.control.init()
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    if case.patcher == "dynamic":
        devices = comfy.model_management.get_all_torch_devices()
        if not comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
            return {"method": case.label, "note": "dynamic VRAM is not available here"}
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    from development.package import enter_package

    enter_package("throughline", Path(root), execute=True)
    return None


def measure(case: Case) -> dict[str, Any]:
    """The row of a case: peak and step time, or that it ran out of memory."""
    device = torch.device(case.device)
    if case.cap_bytes:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, case.cap_bytes / whole), device)
    model = build_model(case, device)
    attached, cache, tokens = remember(case, model)
    meter = Meter(device, case.steps)
    row = {"method": case.label, "tokens": tokens}
    try:
        samples = sample(case, attached, meter)
    except torch.OutOfMemoryError as error:
        return {**row, "note": str(error).partition(".")[0]}
    if not bool(torch.isfinite(samples).all()):
        return {**row, "note": "the samples are not finite"}
    cached = 0.0 if cache is None else cache.sizes().total / GIB
    return {**row, **meter.row(), "loaded_gb": attached.loaded_size() / GIB, "cached_gb": cached}


def build_model(case: Case, device: torch.device) -> Any:
    """A model of core's class with random weights, in RAM; nothing is on the device yet."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.WAN21_T2V({**CONFIGS[case.model], **case.config})
    compute = torch.float32 if case.dtype == "float32" else torch.bfloat16
    dtype = getattr(torch, case.dtype)
    config.set_inference_dtype(dtype, None if dtype == compute else compute)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    fill(model.diffusion_model, case.seed)
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=cpu)


def fill(module: torch.nn.Module, seed: int) -> None:
    """Small random matrices, norms of one, biases of zero; in place."""
    generator = torch.Generator().manual_seed(seed)
    tile = torch.randn(TILE, generator=generator) * WEIGHT_SCALE
    for name, parameter in module.named_parameters():
        flat = parameter.data.view(-1)
        if parameter.ndim > 1:
            repeated = tile.to(parameter.dtype)
            for start in range(0, len(flat), TILE):
                part = flat[start : start + TILE]
                part.copy_(repeated[: len(part)])
        else:
            flat.copy_(torch.full_like(flat, float("norm" in name), dtype=torch.float32))


def remember(case: Case, model: Any) -> tuple[Any, Any, int]:
    """The model with a memory of random tokens attached, its cache, and how many tokens it has."""
    if not case.history_seconds:
        return model.clone(), None, 0
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.budget import read_model
    from throughline.adapters.cache import LatentCache
    from throughline.memory.bank import MemoryBank, MemoryEntry, MemoryPiece
    from throughline.memory.positions import memory_positions
    from throughline.memory.rates import Rate, memory_grid

    facts, rate = read_model(model), Rate.parse(case.rate)
    cache = LatentCache(load_device=model.load_device, offload_device=model.offload_device)
    per_segment = facts.geometry.grid.new_latent_frames(case.segment_seconds, case.fps)
    grid = facts.grid(per_segment, case.height, case.width)
    cells = memory_grid(grid, rate, "ceil")
    generator = torch.Generator().manual_seed(case.seed)
    dtype = torch.float32 if case.dtype == "float32" else torch.bfloat16
    sides = (cells.time * facts.patch[0], cells.height * facts.patch[1])
    shape = (facts.geometry.channels, *sides, cells.width * facts.patch[2])
    entries, keys = [], []
    for index in range(case.history_seconds // case.segment_seconds):
        key = f"history-{index}"
        low = torch.randn(shape, generator=generator).to(dtype)
        fine = torch.randn((cells.tokens, facts.width), generator=generator).to(dtype)
        keys += [f"{key}-low", f"{key}-fine"]
        piece = MemoryPiece(
            key=key,
            form=f"encoder {rate}",
            rate=rate,
            low=cache.add(keys[-2], low),
            fine=cache.add(keys[-1], WEIGHT_SCALE * fine),
            hidden=None,
            positions=memory_positions(grid, rate, "ceil"),
        )
        entries.append(
            MemoryEntry(
                key=key,
                title=f"segment {index + 1}",
                caption="",
                shot=index + 1,
                start=index * per_segment,
                latent_frames=per_segment,
                pinned=False,
                picture=None,
                pieces=(piece,),
            )
        )
    bank = MemoryBank(entries=tuple(entries), rope_mode="history_negative", trained=True)
    return attach_memory(model, bank, patchers=[cache.view(keys)]), cache, bank.tokens


def sample(case: Case, model: Any, meter: Meter) -> Tensor:
    """One segment from noise through core's sampler, both passes of guidance."""
    import comfy.sample
    import comfy.samplers

    geometry = model.get_model_object("latent_format")
    stride, side = geometry.temporal_downscale_ratio, geometry.spacial_downscale_ratio
    latent_frames = (case.frames - 1) // stride + 1
    shape = (1, geometry.latent_channels, latent_frames, case.height // side, case.width // side)
    generator = torch.Generator().manual_seed(case.seed)
    noise = torch.randn(shape, generator=generator)
    width = {**CONFIGS[case.model], **case.config}["text_dim"]
    text = torch.randn((2, 1, case.text_tokens, width), generator=generator)
    positive, negative = ([[one, {"pooled_output": None}]] for one in text)
    sigmas = torch.linspace(1.0, 0.0, case.steps + 1)
    meter.start()
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            case.cfg,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            positive,
            negative,
            torch.zeros(shape),
            callback=meter.step,
            disable_pbar=True,
            seed=case.seed,
        )


class Meter:
    """Times and memory of one sampling. `step` is its callback.

    `peak` is the most that torch held (what the cap is on); `used` the most that was missing from
    the device between steps, which includes what the dynamic patcher maps by itself.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.marks: list[float] = []
        self.free = self.used = 0

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def start(self) -> None:
        if self.on_card:
            torch.cuda.reset_peak_memory_stats(self.device)
            self.free = torch.cuda.mem_get_info(self.device)[0]
        self.marks.append(time.perf_counter())

    def step(self, *_: Any) -> None:
        if self.on_card:
            torch.cuda.synchronize(self.device)
            self.used = max(self.used, self.free - torch.cuda.mem_get_info(self.device)[0])
        self.marks.append(time.perf_counter())

    def row(self) -> dict[str, float]:
        """The first step loads the model, so its time stands apart."""
        seconds = [later - earlier for earlier, later in pairwise(self.marks)]
        peak = torch.cuda.max_memory_reserved(self.device) if self.on_card else 0
        return {
            "peak_gb": peak / GIB,
            "used_gb": self.used / GIB,
            "step_seconds": statistics.median(seconds[1:] or seconds),
            "first_step_seconds": seconds[0],
        }
