"""manifest.json of a run folder: what the run is made from and what of it is finished.

Version 1, one JSON object:
  version        1
  name           the run's name
  pack_version   of the pack that wrote it
  created        UTC, ISO 8601
  fps            frames per second of the film, or null
  parameters     everything that affects pixels: JSON data, fingerprints of the models included
  segments       every planned segment in order, finished or not: the fields of SegmentRecord
  unused         files in segments/ that are not part of the film: earlier takes, and segments of a
                 longer plan; they are reused when a plan asks for them again
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .keys import canonical

VERSION = 1
PLAN = "plan"
"""The start of a segment that fills a plan (`planning/segments.py`)."""

FILE_NAME = "manifest.json"
SEGMENT_FILE = re.compile(r"segments/[0-9]{4,}-[0-9a-f]{12}\.safetensors")
PREVIEW_FILE = re.compile(r"previews/[0-9]{4,}\.jpg")


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One planned segment. `content` is None until it is finished.

    `file` and `preview` are relative to the run folder with "/" between; `content` is the BLAKE3 of
    the latent's bytes, `parent_content` that of the segment it continues (None where it starts
    anew); `seconds` is how long the sampler took; `finished_at` is UTC, ISO 8601.
    """

    index: int
    shot: int
    shot_id: str
    chain: int
    start: str
    latent_frames: int
    known_latent_frames: int
    prompt: str
    negative: str
    seed: int
    take: int
    key: str
    content: str | None = None
    parent_content: str | None = None
    statistics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    finished_at: str | None = None
    file: str | None = None
    preview: str | None = None

    @property
    def number(self) -> int:
        """The number that an artist sees, 1-based."""
        return self.index + 1

    @property
    def finished(self) -> bool:
        return self.content is not None

    @property
    def is_planned(self) -> bool:
        """Filled between the anchors of a plan: a clip of its own, not one with those around it."""
        return self.start == PLAN

    @property
    def continues(self) -> bool:
        """Whether it goes on from the segment before it: from its tail, or from its anchors."""
        return self.start == "tail" or (self.is_planned and self.known_latent_frames > 0)

    @property
    def film_latent_frames(self) -> int:
        """Latent frames it adds to the film: all, or all but those of the tail it was handed."""
        handed = self.known_latent_frames if self.start == "tail" else 0
        return self.latent_frames - handed


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json; see the top of this file."""

    name: str
    pack_version: str
    created: str
    fps: float | None
    parameters: Mapping[str, Any]
    segments: tuple[SegmentRecord, ...]
    unused: tuple[str, ...] = ()
    version: int = VERSION


REQUIRED_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "pack_version": (str,),
    "created": (str,),
    "fps": (int, float, type(None)),
    "parameters": (dict,),
    "segments": (list,),
    "unused": (list,),
}
RECORD_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("index", "shot", "chain", "latent_frames", "known_latent_frames", "seed", "take"), (int,)
    ),
    **dict.fromkeys(("shot_id", "start", "prompt", "negative", "key"), (str,)),
    **dict.fromkeys(
        ("content", "parent_content", "finished_at", "file", "preview"), (str, type(None))
    ),
    "statistics": (dict,),
    "seconds": (int, float, type(None)),
}


def manifest_to_json(manifest: Manifest) -> str:
    """The text of manifest.json. Raises ValueError for values that JSON cannot say."""
    data = canonical(dataclasses.asdict(manifest), "manifest")
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def manifest_from_json(text: str, name: str) -> Manifest:
    """Read manifest.json of the run `name`.

    Raises ValueError naming the run for a newer version and for anything malformed.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(name, str(error)) from error
    if not isinstance(data, dict):
        raise _malformed(name, "it is not a JSON object")
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _malformed(name, f"its version is {version!r}")
    if version > VERSION:
        raise ValueError(
            f"run {name!r} was written by a newer Throughline (manifest version {version}, this "
            f"one reads up to {VERSION}): update the pack or choose another run name"
        )
    _check(data, REQUIRED_TYPES, name, "")
    records = tuple(_record(i, entry, name) for i, entry in enumerate(data["segments"]))
    if not all(isinstance(item, str) for item in data["unused"]):
        raise _malformed(name, "'unused' must hold file names")
    if data["fps"] is not None and data["fps"] <= 0:
        raise _malformed(name, f"'fps' must be above 0, got {data['fps']}")
    return Manifest(
        name=data["name"],
        pack_version=data["pack_version"],
        created=data["created"],
        fps=data["fps"],
        parameters=data["parameters"],
        segments=records,
        unused=tuple(data["unused"]),
        version=version,
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a run folder. Raises ValueError when there is none that reads."""
    path = folder / FILE_NAME
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _malformed(folder.name, "it is not UTF-8 text") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is not a Throughline run: it has no {FILE_NAME}") from error
    return manifest_from_json(text, folder.name)


def _record(index: int, entry: object, name: str) -> SegmentRecord:
    where = f"segment {index + 1}: "
    if not isinstance(entry, dict):
        raise _malformed(name, f"{where}it is not a JSON object")
    _check(entry, RECORD_TYPES, name, where)
    if entry["index"] != index:
        raise _malformed(name, f"{where}its index is {entry['index']}")
    if not 0 <= entry["known_latent_frames"] <= entry["latent_frames"]:
        raise _malformed(name, f"{where}its latent frames do not add up")
    if index == 0 and entry["start"] == "tail":
        raise _malformed(name, f"{where}it continues a segment before it")
    for field, pattern in (("file", SEGMENT_FILE), ("preview", PREVIEW_FILE)):
        if entry[field] is not None and not pattern.fullmatch(entry[field]):
            raise _malformed(name, f"{where}its {field} is {entry[field]!r:.60}")
    return SegmentRecord(**{field: entry[field] for field in RECORD_TYPES})


def _check(data: dict[str, Any], types: dict[str, tuple[type, ...]], name: str, where: str) -> None:
    for field, allowed in types.items():
        value = data.get(field, Ellipsis)
        if not isinstance(value, allowed) or isinstance(value, bool):
            came = "nothing" if value is Ellipsis else f"{value!r:.60}"
            raise _malformed(name, f"{where}'{field}' is {came}")
        if isinstance(value, float) and not math.isfinite(value):
            raise _malformed(name, f"{where}'{field}' is {value}")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"it holds {text}")


def _malformed(name: str, why: str) -> ValueError:
    return ValueError(
        f"{FILE_NAME} of run {name!r} is malformed ({why}); nothing was changed. Move the folder "
        "away or choose another run name"
    )
