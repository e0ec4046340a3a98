"""LoRA files in ComfyUI's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .lora_files import PEFT_CONFIG, LoraFile, read_lora

CATEGORY = "loras"
"""Folder of ComfyUI's models folder, and of the pack's weights."""


def lora_names() -> list[str]:
    """The safetensors files in ComfyUI's LoRA folders, by their names relative to them."""
    names = folder_paths.get_filename_list(CATEGORY)
    return [name for name in names if name.endswith(".safetensors")]


def lora_path(name: str) -> Path:
    """The file called `name`. Raises ValueError for a name that no LoRA folder lists."""
    if name not in lora_names():
        raise ValueError(
            f"lora {name!r} must be a safetensors file in ComfyUI's folder models/{CATEGORY}"
        )
    return Path(folder_paths.get_full_path_or_raise(CATEGORY, name))


def load_lora_file(name: str) -> LoraFile:
    """Read the LoRA called `name`. Raises ValueError naming it and what is wrong."""
    return read_lora(lora_path(name), name)


def lora_stamp(name: str) -> str:
    """Changes when the file, or PEFT's config beside it, is written again; "" where it is gone."""
    try:
        path = lora_path(name)
    except ValueError:
        return ""
    files = [file for file in (path, path.with_name(PEFT_CONFIG)) if file.is_file()]
    return " ".join(f"{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files)
