"""The bench `vram` up to the device: its pieces with tiny sizes on the CPU, and no GPU by name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "dim": 48,
    "ffn_dim": 64,
    "freq_dim": 32,
    "text_dim": 24,
    "num_heads": 2,
    "num_layers": 2,
}


@pytest.fixture(scope="module")
def vram(comfy: ModuleType) -> Any:
    """The bench's module, entered as dev.py does."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks.vram")


@pytest.fixture
def tiny(vram: Any) -> Any:
    """`tiny(**changes)`: a case of seconds, on the CPU and without a cap."""

    def make(**changes: Any) -> Any:
        values: dict[str, Any] = {
            "model": "Wan 2.1 1.3B",
            "dtype": "float32",
            "patcher": "plain",
            "history_seconds": 0,
            "device": "cpu",
            "cap_bytes": 0,
            "width": 64,
            "height": 32,
            "frames": 5,
            "fps": 8,
            "segment_seconds": 1,
            "steps": 3,
            "text_tokens": 7,
            "config": TINY,
        }
        return vram.Case(**{**values, **changes})

    return make


def test_without_a_gpu_it_says_so(vram: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from development.environment import Problem

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Problem, match="bench vram needs an NVIDIA GPU with 12 GB or more"):
        vram.run(range(1))


def test_the_command_ends_without_a_traceback(
    vram: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dev.py's own command line, inside the environment; the host is in this process already."""
    from development import benching, commands, environment

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "ensure_host", lambda: None)
    monkeypatch.setattr(environment, "inside", lambda: True)
    monkeypatch.setattr(benching, "_load", lambda host, name: vram)
    assert commands.main(["bench", "vram"]) == 1
    said = capsys.readouterr()
    assert "needs an NVIDIA GPU" in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_the_cases_are_those_of_the_issue(vram: Any) -> None:
    """1.3B in bf16 and 14B in fp8, 480 x 832 x 81, 0, 20 and 60 s, 12 GB, both kinds of patcher."""
    assert len({case.label for case in vram.CASES}) == 12
    assert {(case.width, case.height, case.frames) for case in vram.CASES} == {(832, 480, 81)}
    assert {case.cap_bytes for case in vram.CASES} == {12 << 30}
    assert {case.history_seconds for case in vram.CASES} == {0, 20, 60}
    assert {case.patcher for case in vram.CASES} == {"plain", "dynamic"}
    kinds = {(case.model, case.dtype) for case in vram.CASES}
    assert kinds == {("Wan 2.1 1.3B", "bfloat16"), ("Wan 2.1 14B", "float8_e4m3fn")}


def test_the_weights_are_small_and_norms_are_one(vram: Any, tiny: Any) -> None:
    from benchmarks._vram_case import build_model

    network = build_model(tiny(), torch.device("cpu")).model.diffusion_model
    block = network.blocks[0]
    assert 0.015 < float(block.ffn[0].weight.std()) < 0.025
    assert torch.equal(block.self_attn.norm_q.weight, torch.ones(48))
    assert torch.equal(block.ffn[0].bias, torch.zeros(64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_every_type_samples_to_a_row(dtype: str, vram: Any, tiny: Any) -> None:
    from benchmarks._vram_case import measure

    row = measure(tiny(dtype=dtype, history_seconds=2))
    assert "note" not in row
    assert row["method"] == f"Wan 2.1 1.3B {dtype} plain 2 s"
    # two entries of one second: 2 latent frames of 2 x 4 tokens at 4x4x2 are one cell each
    assert row["tokens"] == 2
    assert row["step_seconds"] > 0 and row["first_step_seconds"] > 0
    assert row["cached_gb"] * (1 << 30) == 2 * (48 + 16 * 4) * (4 if dtype == "float32" else 2)


def test_memory_reaches_the_model(vram: Any, tiny: Any) -> None:
    from benchmarks._vram_case import Meter, build_model, remember, sample

    def samples(case: Any) -> torch.Tensor:
        model, _, _ = remember(case, build_model(case, torch.device("cpu")))
        return sample(case, model, Meter(torch.device("cpu"), case.steps))

    plain, with_memory = samples(tiny()), samples(tiny(history_seconds=2, rate="2x2x2"))
    assert plain.shape == with_memory.shape == (1, 16, 2, 4, 8)
    assert not torch.equal(plain, with_memory)
    assert torch.equal(plain, samples(tiny()))


def test_twenty_seconds_have_the_tokens_of_the_table(vram: Any) -> None:
    """Four segments of 5 s at 4x4x2 on Wan: 4 x 10 x 8 x 13 = 4,160 (table 1.4, rounded up)."""
    from benchmarks._vram_case import build_model, remember

    case = vram.Case(
        model="Wan 2.1 1.3B",
        dtype="float32",
        patcher="plain",
        history_seconds=20,
        device="cpu",
        cap_bytes=0,
        config=TINY,
    )
    assert remember(case, build_model(case, torch.device("cpu")))[2] == 4160


def test_a_case_in_its_own_process_gives_its_row(vram: Any, tiny: Any) -> None:
    row = vram.in_own_process(tiny(history_seconds=1, seed=3))
    assert row["method"] == "Wan 2.1 1.3B float32 plain 1 s"
    assert row["tokens"] == 1 and row["step_seconds"] > 0


def test_a_process_that_fails_is_a_row_with_a_note(
    vram: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vram, "START", "raise KeyError('no such thing')")
    row = vram.in_own_process(tiny())
    assert row == {"method": tiny().label, "note": "failed: KeyError: 'no such thing'"}


def test_out_of_memory_is_a_row_with_a_note(
    vram: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import _vram_case

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(_vram_case, "sample", full)
    assert _vram_case.measure(tiny())["note"] == "CUDA out of memory"
