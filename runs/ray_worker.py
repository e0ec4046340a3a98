"""What runs in a worker's process until ComfyUI does. It is sent there by value.

The worker's Python knows nothing of this pack before ComfyUI has loaded it, so nothing here may
use another module of it, and nothing but the standard library.
"""

from __future__ import annotations

from typing import Any


def worker_class() -> type:
    """The class of Ray's actors. Made in here, so that Ray sends it by value."""

    def show_error() -> None:
        """Print it to the worker's log, which may lie on a disk that is full."""
        import traceback
        from contextlib import suppress

        with suppress(OSError):
            traceback.print_exc()

    class Worker:
        """`start` once, then `work` after `work`; `told` beside it gives what the work tells, None
        behind the last of each."""

        def __init__(self) -> None:
            import queue

            self._queue: Any = queue.SimpleQueue()
            self._maker: Any = None

        def start(self, boot: Any, brief: Any) -> dict[str, Any]:
            import socket

            answer: dict[str, Any] = {"host": socket.gethostname()}
            try:
                if self._maker is None:
                    self._maker = boot()
                answer["facts"] = self._maker.prepare(brief)
            except BaseException as error:  # SystemExit of a command line is a refusal, too
                show_error()
                answer["error"] = f"it did not start: {type(error).__name__}: {error}"
            return answer

        def work(self, order: Any) -> dict[str, Any]:
            import errno

            full = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
            answer: dict[str, Any] = {}
            try:
                answer["made"] = self._maker.work(order, self._queue.put)
            except BaseException as error:  # the host's interruption is no Exception
                show_error()
                said = str(error) or type(error).__name__
                lost = isinstance(error, OSError) and error.errno in full
                lost = lost or isinstance(error, MemoryError) or "OutOfMemory" in str(type(error))
                answer["lost" if lost else "error"] = said
            self._queue.put(None)
            return answer

        def told(self) -> list[Any]:
            """What has been told since the last time; waits a moment for the first."""
            import queue

            found = []
            try:
                found.append(self._queue.get(timeout=0.5))
                while True:
                    found.append(self._queue.get_nowait())
            except queue.Empty:
                return found

    return Worker
