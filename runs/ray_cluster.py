"""A Ray cluster to run jobs on: found by its address, or started on this machine.

Ray is optional (`pip install "ray[client]"`) and imported where it is used. A worker takes one
unit of the cluster's resource "throughline" (`ray start --resources='{"throughline": 1}'`), or one
graphics card where the cluster names no such resource.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESOURCE = "throughline"
"""Of which a worker takes one."""

CARD = "GPU"
"""Ray's own resource for graphics cards."""

NAMESPACE = "throughline"
CLIENT_SCHEME = "ray://"
THIS_MACHINE = "auto"

ANSWER_SECONDS = 5.0
"""A machine that is there takes a connection at once; a second more than a name server may need."""

CONNECT_ATTEMPTS = 3
"""The server for ray:// addresses forks a process for each connection beside threads of gRPC, which
now and then leaves the child without its sockets (seen once in six connections to Ray 2.60:
"Epoll1Poller encountered epoll_wait error: Bad file descriptor"); the next try gets another."""

STORE_BYTES = 256 * 1024**2
"""Shared memory of a cluster that is started here: plans and finished segments pass through it, of
which 19 MB are a 720p segment (our choice; Ray's default is a third of the memory)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection. `ray` is the module; `unit` the resource that a worker takes one of; `close`
    gives it back, and ends the cluster where it was started here."""

    ray: Any
    unit: str
    close: Callable[[], None]

    def slots(self) -> int:
        """How many workers there is room for, counting those that run."""
        return int(self.ray.cluster_resources().get(self.unit, 0))

    def options(self) -> dict[str, Any]:
        """What a worker asks Ray for: one unit, and its share of a machine's cards."""
        if self.unit == CARD:
            return {"num_cpus": 0, "num_gpus": 1}
        resources = self.ray.cluster_resources()
        cards = resources.get(CARD, 0) / max(1, resources.get(self.unit, 1))
        share = {"num_gpus": min(1.0, cards)} if cards else {}
        return {"num_cpus": 0, "resources": {self.unit: 1}, **share}


def import_ray() -> Any:
    """The module ray. Raises ValueError that says how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read once, when ray is first imported
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "run_on 'Ray cluster' needs the package ray, which is not installed "
            f'({error}): pip install "ray[client]" into the Python that runs ComfyUI'
        ) from error
    return ray


def _has_token() -> bool:
    """Whether this user has a token of a cluster. Ray's clusters ask for it, from 2.60 on unless
    told otherwise, but it is not sent to an address that is named unless the mode says so."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()


def check_address(address: str) -> None:
    """Raises ValueError where nothing answers at ray://host:port or host:port.

    Ray itself ends the whole process when it does not reach a cluster's head (its core logs
    "Failed to connect to GCS" and aborts), so it is not asked before something answers.
    """
    if address in ("", THIS_MACHINE):
        return
    host, _, port = address.removeprefix(CLIENT_SCHEME).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"address must be ray://host:port, host:port, {THIS_MACHINE} or empty, got {address!r}"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS):
            pass
    except OSError as error:
        raise ValueError(
            f"address {address!r} does not answer ({error}): start the cluster, or leave it empty "
            "to start workers on this machine"
        ) from error


def connect(address: str, workers: int) -> Cluster:
    """Connect to the cluster at `address`; with an empty one start one on this machine that has
    room for `workers`.

    A connection that this process has already is used and left alone. Raises ValueError without
    Ray, for an address that does not answer, and for a cluster without room for workers.
    """
    check_address(address)
    ray = import_ray()
    if ray.is_initialized():
        return _with_unit(ray, lambda: None)
    try:
        _init(ray, address, workers)
    except Exception as error:
        raise ValueError(
            f"Ray did not connect to {address or 'this machine'!r} ({error}): it must be a Ray "
            "cluster of the same versions of Ray and Python, and its token in ~/.ray/auth_token "
            "here where it has one"
        ) from error
    try:
        return _with_unit(ray, ray.shutdown)
    except BaseException:
        ray.shutdown()
        raise


def _init(ray: Any, address: str, workers: int) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False, "namespace": NAMESPACE}
    if not address:
        # these workers do the user's work: Ray's 15 leaves them nothing beside anything else
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(
            address="local",
            resources={RESOURCE: workers},
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            **quiet,
        )
        return
    for left in reversed(range(CONNECT_ATTEMPTS)):
        try:
            ray.init(address=address, **quiet)
            return
        except ConnectionError:
            if not left:
                raise
            ray.shutdown()


def _with_unit(ray: Any, close: Callable[[], None]) -> Cluster:
    resources = ray.cluster_resources()
    unit = next((unit for unit in (RESOURCE, CARD) if resources.get(unit, 0) >= 1), None)
    if unit is None:
        raise ValueError(
            "the Ray cluster has no graphics card and no resource 'throughline': start its "
            "machines with ray start --resources='{\"throughline\": 1}'"
        )
    return Cluster(ray=ray, unit=unit, close=close)
