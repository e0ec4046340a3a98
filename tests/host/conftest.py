"""What the tests of bad inputs share: values for every socket, and graphs that must be refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FLUX_SIZES = (
    "vec_in_dim context_in_dim hidden_size mlp_ratio num_heads depth depth_single_blocks axes_dim "
    "theta qkv_bias guidance_embed"
).split()


def runs_folder() -> Path:
    """The folder of runs below ComfyUI's output folder of this test."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "throughline"


def make_values() -> dict[str, Callable[[], Any]]:
    """Everything that the cases connect, by name, made when it is asked for."""
    import comfy.sd
    import comfy.supported_models
    import comfy.taesd.taesd
    import torch

    from development.tiny_models import (
        FAMILIES,
        HUNYUAN,
        TinyFamily,
        tiny_text_encoder,
        tiny_wan_vae,
    )
    from throughline.planning.script import parse_storyboard
    from throughline.runs.run import open_run

    def latent(*shape: int, fill: float = 0.0) -> dict[str, Any]:
        return {"samples": torch.full(shape, fill)}

    def text(width: int, fill: float = 0.0) -> list[list[Any]]:
        return [[torch.full((1, 7, width), fill), {"pooled_output": None}]]

    flux = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "txt_ids_dims": [],
    }
    flux |= {key: HUNYUAN[key] for key in FLUX_SIZES}
    return {
        **{name: family.model for name, family in FAMILIES.items()},
        "picture model": TinyFamily(comfy.supported_models.Flux, flux, 24).model,
        "vae": tiny_wan_vae,
        "picture vae": lambda: comfy.sd.VAE(
            sd=comfy.taesd.taesd.TAESD(latent_channels=4).state_dict()
        ),
        "encoder": tiny_text_encoder,
        "encoder of another model": lambda: tiny_text_encoder(32),
        "text": FAMILIES["wan_t2v"].conditioning,
        "hunyuan text": FAMILIES["hunyuan_replace"].conditioning,
        "empty text": list,
        "NaN text": lambda: text(24, math.nan),
        "wide text": lambda: text(99),
        "image": lambda: torch.zeros((1, 32, 32, 3)),
        "5 images": lambda: torch.zeros((5, 32, 32, 3)),
        "row": lambda: latent(5),
        "2 images": lambda: torch.zeros((2, 32, 32, 3)),
        "NaN image": lambda: torch.full((1, 32, 32, 3), math.nan),
        "grey image": lambda: torch.zeros((1, 8, 8, 1)),
        "latent": lambda: latent(1, 16, 3, 4, 4),
        "NaN latent": lambda: latent(1, 16, 3, 4, 4, fill=math.nan),
        "larger latent": lambda: latent(1, 16, 3, 6, 6),
        "48 channels": lambda: latent(1, 48, 3, 4, 4),
        "2 latents": lambda: latent(2, 16, 3, 4, 4),
        "picture latent": lambda: latent(1, 4, 8, 8),
        "sigmas NaN": lambda: torch.tensor([1.0, math.nan, 0.0]),
        "one sigma": lambda: torch.tensor([1.0]),
        "rising sigmas": lambda: torch.tensor([0.5, 1.0, 0.0]),
        "negative sigmas": lambda: torch.tensor([1.0, -1.0]),
        "storyboard": lambda: parse_storyboard("A dog runs."),
        "bad script": lambda: "[5min] a",
        "magic": lambda: "magic",
        "1000000.0": lambda: 1e6,
        "../escape": lambda: "../escape",
        "-1.0": lambda: -1.0,
        "0.0": lambda: 0.0,
        "0": lambda: 0,
        "-5": lambda: -5,
        "33": lambda: 33,
        "99": lambda: 99,
        "5000.0": lambda: 5000.0,
        **memory_values(),
        "run": lambda: open_run(runs_folder() / "film"),
        "small run": lambda: open_run(runs_folder() / "small"),
    }


def memory_values() -> dict[str, Callable[[], Any]]:
    """Encoders and memories for the tiny Wan model, by name."""
    import tempfile

    import torch

    from development.tiny_encoders import write_tiny_encoder
    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.adapters.encoders import load_encoder
    from throughline.nodes.remembering import make_memory, memory_request

    def encoder(**changes: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.safetensors"
            write_tiny_encoder(path, **changes)
            return load_encoder(path)

    def memory(side: int = 4, **changes: Any) -> Any:
        inputs = {
            "model": FAMILIES["wan_t2v"].model(),
            "vae": tiny_wan_vae(),
            "encoder": encoder(),
            "history": {"samples": torch.zeros(1, 16, 2, side, side)},
            "form": "automatic",
            "rate": "2x2x2",
            "recent_frames": "automatic",
            "window": 0,
            "pin": "references and first shot",
            "captions": "",
            "width": 0,
            "height": 0,
        }
        return make_memory(memory_request({**inputs, **changes})).memory

    nothing = {"recent_frames": "anchors only", "pin": "references only"}
    return {
        "memory encoder": encoder,
        "chain encoder": lambda: encoder(stream="chain"),
        "wide encoder": lambda: encoder(inner_dim=64),
        "hunyuan encoder": lambda: encoder(base="hunyuanvideo"),
        "memory": memory,
        "larger memory": lambda: memory(8),
        "empty memory": lambda: memory(history=None),
        "memory of nothing": lambda: memory(history=None, **nothing),
        "no latent frames": lambda: {"samples": torch.zeros(1, 16, 0, 4, 4)},
    }


@pytest.fixture(scope="session")
def value_node(comfy: ModuleType, prompt_server: Any) -> Iterator[None]:
    """The test node `TestValue`: gives the value of a name on a wire that fits every socket."""
    import nodes
    from comfy_api.latest import io

    makers, made = make_values(), {}

    class TestValue(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="TestValue",
                category="test",
                inputs=[io.String.Input("name")],
                outputs=[io.AnyType.Output()],
            )

        @classmethod
        def execute(cls, name: str) -> io.NodeOutput:
            if name not in made or name in ("run", "small run"):  # every test has its own
                made[name] = makers[name]()
            return io.NodeOutput(made[name])

    nodes.NODE_CLASS_MAPPINGS["TestValue"] = TestValue
    yield
    del nodes.NODE_CLASS_MAPPINGS["TestValue"]


@pytest.fixture
def sampled(comfy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of core's sampling functions that were called; they stop the graph."""
    import comfy.sample
    import comfy.samplers

    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        def sample(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            raise RuntimeError(f"{name} was called")

        return sample

    monkeypatch.setattr(comfy.sample, "sample_custom", counted("sample_custom"))
    monkeypatch.setattr(comfy.sample, "sample", counted("sample"))
    monkeypatch.setattr(comfy.samplers, "sample", counted("samplers.sample"))
    return calls


class Refusals:
    """Runs one node with good inputs but for some, and says how it was refused."""

    def __init__(self, run_graph: Callable, sampled: list[str]) -> None:
        self._run_graph, self.sampled = run_graph, sampled

    def graph(self, node: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """API form of a graph with that node, its widgets at their defaults where not given.

        ("wire", name) connects the value of that name; an input of None is left out.
        """
        import nodes

        prompt: dict[str, Any] = {}
        widgets = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"].items()
        defaults = {name: kind[1]["default"] for name, kind in widgets if "default" in kind[1]}
        given = {**defaults, **{name: v for name, v in inputs.items() if v is not None}}
        for name, value in given.items():
            if isinstance(value, tuple):
                _, made = value
                prompt[made] = {"class_type": "TestValue", "inputs": {"name": made}}
                given[name] = [made, 0]
        prompt["node"] = {"class_type": node, "inputs": given}
        if not nodes.NODE_CLASS_MAPPINGS[node].OUTPUT_NODE:
            prompt["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}}
        return prompt

    def message(self, node: str, inputs: Mapping[str, Any]) -> str:
        """How the host or the node refused it. Fails when it was not."""
        with pytest.raises(self._run_graph.error) as caught:
            self._run_graph(self.graph(node, inputs))
        return str(caught.value).replace("\\'", "'").replace("\\\\", "\\")  # it quotes quotes


@pytest.fixture
def refusals(run_graph: Callable, value_node: None, sampled: list[str]) -> Refusals:
    """Graphs that must be refused; `sampled` names the sampling functions that were called."""
    return Refusals(run_graph, sampled)
