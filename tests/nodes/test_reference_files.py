"""Reference pictures of a script: every rule of nodes/reference_files.py, on real files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def files(comfy_folders: dict[str, Path]) -> ModuleType:
    from throughline.nodes import reference_files

    return reference_files


@pytest.fixture
def save(comfy_folders: dict[str, Path]) -> Callable[..., str]:
    """`save(picture, name, **options)` writes into the input folder and gives the name."""

    def write(picture: Image.Image, name: str, **options: object) -> str:
        path = comfy_folders["input"] / name
        path.parent.mkdir(exist_ok=True)
        picture.save(path, **options)
        return name

    return write


def halves(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, (255, 0, 0))
    picture.paste((0, 0, 255), (size[0] // 2, 0, size[0], size[1]))
    return picture.convert(mode)


def png_head(width: int, height: int) -> bytes:
    """A PNG file that says how large it is and has no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def read(files: ModuleType, name: str) -> torch.Tensor:
    return files.read_reference(name)[0]


def test_a_picture_is_read_as_it_is(files: ModuleType, save: Callable[..., str]) -> None:
    picture = read(files, save(halves(), "cast/ana.png"))
    assert picture.shape == (1, 20, 40, 3)
    assert picture.dtype == torch.float32
    assert picture[0, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert picture[0, 19, 39].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", "'missing.png' must be in ComfyUI's input folder, got no such file"),
        ("../secret.png", "must stay inside ComfyUI's input folder"),
        ("/etc/passwd", "must stay inside ComfyUI's input folder"),
        ("folder", "'folder' must be a file, got a folder or a device"),
        ("x" * 300 + ".png", "got no such file"),
        ("loop.png", "got no such file"),
        (
            "linked.png",
            "'linked.png' must stay inside ComfyUI's input folder, got a link out of it",
        ),
        ("links/inside.png", "must stay inside ComfyUI's input folder, got a link out of it"),
        ("text.png", "'text.png' must be a picture, got a file of no picture format"),
        ("empty.png", "must be a picture, got a file of no picture format"),
        ("cut.jpg", "'cut.jpg' must be a whole picture, got a damaged one"),
        ("wrong.png", "'wrong.png' must be a whole picture, got a damaged one"),
        ("large.png", "must have at most 178,956,970 pixels, got (20000 x 20000|more)"),
        ("tiny.png", "must be at least 16 pixels wide and high, got 40 x 8"),
        ("float.tif", "must have 8 or 16 bits per channel, got floating point"),
    ],
)
def test_what_cannot_be_used_is_named(
    files: ModuleType,
    save: Callable[..., str],
    comfy_folders: dict[str, Path],
    tmp_path: Path,
    name: str,
    words: str,
) -> None:
    inside, outside = comfy_folders["input"], tmp_path / "outside"
    outside.mkdir()
    halves().save(outside / "inside.png")
    (inside / "folder").mkdir()
    (inside / "linked.png").symlink_to(outside / "inside.png")
    (inside / "links").symlink_to(outside)
    (inside / "loop.png").symlink_to(inside / "loop.png")
    (inside / "text.png").write_text("a portrait of Ana\n" * 9, encoding="utf-8")
    (inside / "empty.png").touch()
    save(halves(size=(400, 200)), "whole.jpg")
    (inside / "cut.jpg").write_bytes((inside / "whole.jpg").read_bytes()[:900])
    (inside / "wrong.png").write_bytes(png_head(64, 64))
    (inside / "large.png").write_bytes(png_head(20_000, 20_000))
    save(halves(size=(40, 8)), "tiny.png")
    save(Image.fromarray(np.zeros((20, 40), np.float32)), "float.tif")
    with pytest.raises(ValueError, match=words):
        read(files, name)


def test_a_link_inside_the_folder_is_followed(
    files: ModuleType, save: Callable[..., str], comfy_folders: dict[str, Path]
) -> None:
    save(halves(), "ana.png")
    (comfy_folders["input"] / "same.png").symlink_to(comfy_folders["input"] / "ana.png")
    assert torch.equal(read(files, "same.png"), read(files, "ana.png"))


def test_a_huge_picture_is_refused_where_another_pack_switched_the_limit_off(
    files: ModuleType, comfy_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (comfy_folders["input"] / "large.png").write_bytes(png_head(20_000, 20_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="178,956,970 pixels, got 20000 x 20000"):
        read(files, "large.png")


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_large_picture_is_reduced_and_says_so(
    files: ModuleType, save: Callable[..., str], format: str
) -> None:
    """20,000 pixels wide and below the limit: 20,000 x 600 is 12 million."""
    name = save(halves(size=(20_000, 600)), f"wide.{format}")
    picture, notes = files.read_reference(name)
    assert notes == (
        f"reference 'wide.{format}' is 20000 x 600 in its file; it is used at "
        f"{picture.shape[2]} x {picture.shape[1]}",
    )
    assert 0.99 * files.MOST_PIXELS < picture.shape[1] * picture.shape[2] <= files.MOST_PIXELS
    assert picture.shape[2] / picture.shape[1] == pytest.approx(20_000 / 600, rel=0.01)
    assert picture[0, 100, 100].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0.02)


def test_a_picture_at_the_limit_is_not_touched(files: ModuleType, save: Callable[..., str]) -> None:
    picture, notes = files.read_reference(save(halves(size=(2048, 2048)), "limit.png"))
    assert (picture.shape, notes) == ((1, 2048, 2048, 3), ())


@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_of_an_animated_file_the_first_frame_counts(
    files: ModuleType, save: Callable[..., str], format: str
) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "webp" else {}
    name = save(
        frames[0], f"moving.{format}", save_all=True, append_images=frames[1:], duration=100,
        **options,
    )  # fmt: skip
    picture, notes = files.read_reference(name)
    assert picture.shape == (1, 32, 32, 3)
    assert picture[0, 5, 5].tolist() == [1.0, 0.0, 0.0]
    assert notes == (f"reference 'moving.{format}' holds 3 pictures; the first is used",)


@pytest.mark.parametrize("size", [(40, 20), (4000, 2000)])
def test_the_rotation_of_the_camera_is_applied(
    files: ModuleType, save: Callable[..., str], size: tuple[int, int]
) -> None:
    """Orientation 6: what the file holds must be turned clockwise; its left comes to the top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read(files, save(halves(size=size), "phone.jpg", exif=exif, quality=95))
    height, width = picture.shape[1:3]
    assert height == pytest.approx(2 * width, rel=0.01)
    assert picture[0, 2, width // 2].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0.05)
    assert picture[0, height - 3, width // 2].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=0.05)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_stands_on_white(
    files: ModuleType, save: Callable[..., str], mode: str
) -> None:
    if mode == "P":
        picture = Image.new("P", (20, 20), 0)
        picture.putpalette([0, 0, 0, 0, 0, 0])
        picture.paste(1, (10, 0, 20, 20))
        name = save(picture, "cut.png", transparency=0)
    else:
        cut = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
        cut.paste((0, 0, 0, 255), (10, 0, 20, 20))
        name = save(cut.convert(mode), "cut.png")
    picture_read = read(files, name)
    assert picture_read[0, 5, 5].tolist() == [1.0, 1.0, 1.0]
    assert picture_read[0, 5, 15].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("format", ["png", "tif"])
def test_sixteen_bits_keep_their_brightness(
    files: ModuleType, save: Callable[..., str], format: str
) -> None:
    levels = np.full((20, 20), 32768, np.uint16)
    levels[:, 10:] = 65535
    picture = read(files, save(Image.fromarray(levels), f"deep.{format}"))
    assert picture[0, 5, 5].tolist() == pytest.approx([0.5] * 3, abs=1 / 255)
    assert picture[0, 5, 15].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("mode", "format"), [("CMYK", "jpg"), ("CMYK", "tif"), ("L", "png")])
def test_other_colours_become_rgb(
    files: ModuleType, save: Callable[..., str], mode: str, format: str
) -> None:
    picture = read(files, save(halves(mode, (64, 32)), f"print.{format}"))
    assert picture.shape == (1, 32, 64, 3)
    grey = 76 / 255  # of red in BT.601, which PIL's "L" is
    wanted = [grey] * 3 if mode == "L" else [1.0, 0.0, 0.0]
    assert picture[0, 5, 5].tolist() == pytest.approx(wanted, abs=0.03)


def test_all_pictures_of_a_script_once_with_their_notes(
    files: ModuleType, save: Callable[..., str]
) -> None:
    from throughline.planning.script import parse_storyboard

    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime")]
    save(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    save(halves(), "diner.png")
    script = (
        "@Ana = a woman | ref: moving.gif\n#diner = a room | ref: diner.png\n"
        "== 1 #diner ==\n<Ana> waits. {refs: diner.png, moving.gif}"
    )
    read = files.read_references(parse_storyboard(script))
    assert list(read.pictures) == ["moving.gif", "diner.png"]
    assert read.notes == ("reference 'moving.gif' holds 2 pictures; the first is used",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(files: ModuleType, comfy_folders: dict[str, Path]) -> None:
    os.mkfifo(comfy_folders["input"] / "pipe.png")
    with pytest.raises(ValueError, match="'pipe.png' must be a file"):
        read(files, "pipe.png")
