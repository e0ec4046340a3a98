"""What a running node tells the page: one websocket event per change of a segment."""

from collections.abc import Mapping
from typing import Any

SEGMENT_EVENT = "throughline.segment"


def announce_segment(detail: Mapping[str, Any]) -> None:
    """Send `detail` to every open page as the event "throughline.segment".

    Keys: run, node (its id), segment (1-based number), segments (their count), status ("running",
    "done", "reused", "waiting", "failed", "changed" or "damaged"), reason, shot (its id), prompt,
    seed, take (0 first), step, steps, and optionally seconds; missing ones are left as they are
    on the page. Does nothing where no server runs (tests, the registry's extraction).
    """
    from server import PromptServer  # type: ignore[import-not-found]

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(SEGMENT_EVENT, dict(detail))
