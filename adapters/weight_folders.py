"""The pack's own folders below ComfyUI's models folder: what they list, and where a file lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

RELOAD = "put it there and reload the page"


def weight_names(category: str) -> list[str]:
    """The files that a loader lists; none before the folder is registered."""
    import folder_paths

    if category not in folder_paths.folder_names_and_paths:
        return []
    return folder_paths.get_filename_list(category)


def weight_path(category: str, name: str, what: str, advice: str = RELOAD) -> Path:
    """The path of a listed file. Raises ValueError, naming the input `what`, for names that
    ComfyUI's folders do not hold."""
    import folder_paths

    if name not in weight_names(category):
        raise ValueError(f"{what} must be a file in models/{category}, got {name!r}: {advice}")
    return Path(folder_paths.get_full_path_or_raise(category, name))


def register_folders(categories: Iterable[str], shipped: Path) -> None:
    """Let ComfyUI find safetensors files of these categories in its models folder, and in
    `shipped`, the pack's own folder, where it has some."""
    import folder_paths

    for category in categories:
        folder_paths.add_model_folder_path(category, str(Path(folder_paths.models_dir) / category))
        if (shipped / category).is_dir():
            folder_paths.add_model_folder_path(category, str(shipped / category))
        folders, extensions = folder_paths.folder_names_and_paths[category]
        folder_paths.folder_names_and_paths[category] = (folders, {*extensions, ".safetensors"})
