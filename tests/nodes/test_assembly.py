"""ThroughlineAssembleVideo and ThroughlineDriftReport in the host, with a small Wan 2.1 VAE."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import pytest
import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder
from throughline.runs.run import Run

WORKFLOW = {"workflow": {"nodes": [{"id": 1, "title": "夜"}], "version": 0.4}}
PROMPT = {"3": {"class_type": "ThroughlineAssembleVideo", "inputs": {"crf": 18}}}
SETTINGS: dict[str, Any] = {
    "fps": 0.0,
    "format": "mp4 h264",
    "crf": 8,
    "filename_prefix": "films/take",
    "colour_match": "off",
    "colour_match_strength": 1.0,
    "overlap_blend": 0,
    "contact_frames": 4,
}


@pytest.fixture(scope="module")
def vae(comfy: ModuleType) -> Any:
    """Core's Wan 2.1 class, 8 wide, with weights that keep the picture alive."""
    import comfy.ldm.wan.vae
    import comfy.sd

    network = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            scale = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.1
            value = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(value + (1.0 if name.endswith("gamma") else 0.0))
    return comfy.sd.VAE(sd=network.state_dict())


def make_run(
    output: Path, count: int = 3, cuts: Sequence[int] = (), channels: int = 16, finished: int = 99
) -> Run:
    """`count` segments of 3 latent frames, 1 of them handed on, in a slowly changing latent."""
    segments = [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i),
            chain=sum(1 for cut in cuts if cut <= i),
            start="text" if i == 0 or i in cuts else "tail",
            latent_frames=3,
            known_latent_frames=0 if i == 0 or i in cuts else 1,
            prompt="",
            negative="",
            seed=i,
        )
        for i in range(count)
    ]
    generator = torch.Generator().manual_seed(5)
    with RunFolder.open(output / "throughline", "film", {"fps": 8}, segments) as folder:
        latent = torch.randn(1, channels, 1, 4, 6, generator=generator)
        for segment in segments[:finished]:
            frames = [latent]
            for _ in range(2):
                noise = torch.randn(latent.shape, generator=generator)
                frames.append(0.98 * frames[-1] + 0.2 * noise)
            latent = frames[-1]
            folder.write_segment(segment.index, torch.cat(frames, 2), {}, 1.0)
        return folder.run


def assemble(run: Run, vae: Any, **changes: Any) -> SimpleNamespace:
    """Execute the node as the host does, with hidden inputs."""
    from comfy_api.latest import io

    from throughline.nodes.assembly import AssembleVideo

    hidden = {io.Hidden.prompt: PROMPT, io.Hidden.extra_pnginfo: WORKFLOW}
    node = AssembleVideo.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    with torch.inference_mode():
        output = node.execute(run=run, vae=vae, **{**SETTINGS, **changes})
    ui = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
    return SimpleNamespace(video=output.args[0], frames=output.args[1], ui=ui)


def decoded_by_core(run: Run, vae: Any) -> torch.Tensor:
    """The whole film the slow and obvious way: core's decode of each chain's latents in one."""
    films = []
    for chain in run.chains:
        parts = [
            run.latent(record.index)[:, :, record.latent_frames - record.film_latent_frames :]
            for record in chain
        ]
        with torch.no_grad():
            films.append(vae.decode(torch.cat(parts, 2))[0])
    return torch.cat(films)


def test_the_film_is_what_core_decodes(comfy_folders: dict[str, Path], vae: Any) -> None:
    run = make_run(comfy_folders["output"], 4, cuts=[2])
    expected = decoded_by_core(run, vae)
    result = assemble(run, vae, format="mkv ffv1")
    frames = result.video.get_components().images
    assert frames.shape == expected.shape == (2 * 17, 32, 48, 3)
    assert (frames - expected).abs().mean() < 0.005
    assert torch.allclose(result.frames, expected[[0, 11, 22, 33]], atol=1.01 / 255)


def test_an_mp4_carries_the_graph_and_shows_on_the_node(
    comfy_folders: dict[str, Path], vae: Any
) -> None:
    run = make_run(comfy_folders["output"])
    result = assemble(run, vae)
    path = comfy_folders["output"] / "films/take_00001_.mp4"
    assert result.video.get_stream_source() == str(path)
    assert result.video.get_frame_rate() == 8 and result.video.get_frame_count() == 9 + 8 + 8
    assert result.ui["images"] == [
        {"filename": "take_00001_.mp4", "subfolder": "films", "type": "output"}
    ]
    with av.open(str(path)) as container:
        tags = dict(container.metadata)
    assert json.loads(tags["prompt"]) == PROMPT
    assert json.loads(tags["workflow"]) == WORKFLOW["workflow"]
    assert result.frames.shape == (4, 32, 48, 3)
    luma = torch.tensor([0.2126, 0.7152, 0.0722])  # mp4 halves the size of colour only
    error = (result.video.get_components().images - decoded_by_core(run, vae)) @ luma
    assert error.abs().mean() < 0.02


def test_core_writes_the_same_tags(comfy_folders: dict[str, Path], vae: Any) -> None:
    """The page reads what core's SaveVideo writes; ours must look the same to it."""
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types

    run = make_run(comfy_folders["output"], 1)
    components = Types.VideoComponents(images=torch.rand(5, 32, 48, 3), frame_rate=Fraction(8))
    core = comfy_folders["output"] / "core.mp4"
    InputImpl.VideoFromComponents(components).save_to(
        str(core), metadata={**WORKFLOW, "prompt": PROMPT}
    )
    assemble(run, vae)
    tags = []
    for path in (core, comfy_folders["output"] / "films/take_00001_.mp4"):
        with av.open(str(path)) as container:
            tags.append({key: container.metadata[key] for key in ("prompt", "workflow")})
    assert tags[0] == tags[1]


def test_metadata_can_be_switched_off(
    comfy_folders: dict[str, Path], vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    assemble(make_run(comfy_folders["output"], 1), vae)
    with av.open(str(comfy_folders["output"] / "films/take_00001_.mp4")) as container:
        assert "prompt" not in container.metadata and "workflow" not in container.metadata


def test_nothing_changed_reuses_the_file_and_a_retake_makes_another(
    comfy_folders: dict[str, Path], vae: Any
) -> None:
    run = make_run(comfy_folders["output"])
    first, again = assemble(run, vae), assemble(run, vae)
    assert first.video.get_stream_source() == again.video.get_stream_source()
    assert torch.equal(first.frames, again.frames)
    longer = assemble(make_run(comfy_folders["output"], 4), vae)
    assert longer.video.get_stream_source().endswith("take_00002_.mp4")
    names = sorted(path.name for path in (comfy_folders["output"] / "films").iterdir())
    assert names == ["take_00001_.mp4", "take_00002_.mp4"]


def test_formats_a_browser_cannot_play_say_where_they_lie(
    comfy_folders: dict[str, Path], vae: Any
) -> None:
    result = assemble(make_run(comfy_folders["output"], 1), vae, format="mov prores")
    assert result.ui == {"text": ("9 frames in output/films/take_00001_.mov",)}


def test_an_interrupt_stops_and_leaves_no_half_film(
    comfy_folders: dict[str, Path], vae: Any
) -> None:
    from comfy import model_management

    run = make_run(comfy_folders["output"])
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        assemble(run, vae)
    assert list((comfy_folders["output"] / "films").iterdir()) == []
    assert not run.unfinished
    assemble(run, vae)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": float("inf")}, "fps must be 0.01 to 1000.0, or 0 for the run's own, got inf"),
        ({"crf": -1}, "crf must be 0 to 51, got -1"),
        ({"contact_frames": 0}, "contact frames must be 1 or more, got 0"),
        ({"filename_prefix": "../../etc/film"}, "must stay inside ComfyUI's output folder"),
        ({"filename_prefix": "/etc/film"}, "must stay inside ComfyUI's output folder"),
        ({"filename_prefix": ""}, "must end in a file name, got ''"),
        ({"filename_prefix": "films/"}, "must end in a file name, got 'films/'"),
        ({"filename_prefix": ".."}, "must end in a file name"),
        ({"filename_prefix": "a\x00b"}, "must be plain text"),
    ],
)
def test_bad_inputs_are_refused_before_decoding(
    comfy_folders: dict[str, Path], vae: Any, changes: dict[str, Any], message: str
) -> None:
    run = make_run(comfy_folders["output"], 1)
    with pytest.raises(ValueError, match=message):
        assemble(run, vae, **changes)
    assert not list(comfy_folders["output"].rglob("*.mp4"))


def test_a_bad_prefix_is_refused_when_the_graph_is_queued(comfy: ModuleType) -> None:
    from throughline.nodes.assembly import AssembleVideo

    assert AssembleVideo.validate_inputs(filename_prefix="films/%date:yyyy%/take") is True
    assert "must stay inside" in str(AssembleVideo.validate_inputs(filename_prefix="../x"))
    assert AssembleVideo.validate_inputs() is True


def test_runs_that_cannot_be_assembled(comfy_folders: dict[str, Path], vae: Any) -> None:
    with pytest.raises(ValueError, match="run 'film' is not finished: 2 of 3 .*2, 3"):
        assemble(make_run(comfy_folders["output"], 3, finished=1), vae)


def test_a_vae_of_another_model_is_refused(comfy_folders: dict[str, Path], vae: Any) -> None:
    from throughline.nodes.assembly import DriftReport

    run = make_run(comfy_folders["output"], 1, channels=48)
    message = "this VAE has 16 latent channels, the run has 48"
    with pytest.raises(ValueError, match=message):
        assemble(run, vae)
    with pytest.raises(ValueError, match=message):
        DriftReport.execute(run=run, vae=vae)


def test_the_drift_report_reads_what_the_assembly_measured(
    comfy_folders: dict[str, Path], vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.nodes import assembling
    from throughline.nodes.assembly import DriftReport

    run = make_run(comfy_folders["output"], 4, cuts=[3])
    with torch.inference_mode():
        first = DriftReport.execute(run=run, vae=vae)

    def refuse(vae: Any, latents: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(assembling, "decode_chain", refuse)
    again = DriftReport.execute(run=run, vae=vae)
    assert again.args[0] == first.args[0] and again.args[2] == first.args[2]
    report = json.loads(first.args[0])
    assert [hop["cut"] for hop in report["hops"]] == [False, False, True]
    assert math.isfinite(report["drift_percent"])
    plot = first.args[1]
    assert plot.shape == (1, 640, 1024, 3) and 0.0 <= plot.min() and plot.max() <= 1.0
    assert "film: 4 segments, 2 hops, 1 cut" in first.args[2]
    assert again.ui["text"] == (first.args[2],) if isinstance(again.ui, dict) else True


def test_the_drift_report_of_one_segment(comfy_folders: dict[str, Path], vae: Any) -> None:
    from throughline.nodes.assembly import DriftReport

    output = DriftReport.execute(run=make_run(comfy_folders["output"], 1), vae=vae)
    assert json.loads(output.args[0])["drift_percent"] is None
    assert "there is no drift to measure" in output.args[2]
