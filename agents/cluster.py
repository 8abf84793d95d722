"""Ray: on this machine and reachable from it alone, or, asked for by name, a cluster that is already there."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agents.ray_session import RaySession, require_open_files
from training.errors import TrainingError
from training.stop_signals import delay_stop_signals

CONNECT_TIMEOUT = 10.0
"""Seconds that a cluster has to accept a connection."""
LOCAL = {
    # Ray's services bind to every interface on Linux unless this variable, meant for other systems, is set before its
    # import; then every port is on the loopback address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Workers at Ray's default niceness of 15 starve while the learner computes.
    "RAY_worker_niceness": "0",
    # What an environment forks ends with its actor.
    "RAY_process_group_cleanup_enabled": "1",
    # Without its head a run cannot go on: end within seconds, not after a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    # What actors print to stderr is kept, but not without bound.
    "RAY_ROTATION_MAX_BYTES": "10000000",
    "RAY_ROTATION_BACKUP_COUNT": "1",
}


class NoPlaces(list[str]):
    """What Ray is given to add to, where it would put the working folder first among those that workers import from."""

    def extend(self, places: Iterable[str]) -> None:
        pass


def is_joined() -> bool:
    """Whether this process already belongs to a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def check_reachable(address: str) -> None:
    """Raise TrainingError unless something accepts connections at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise TrainingError(f"--address {address!r}: expected HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise TrainingError(f"no Ray cluster could be joined at {address}: {error}") from None


def start_ray(num_processes: int, address: str | None = None) -> RaySession:
    """Start a private Ray with room for `num_processes`, or join the cluster at `address`.

    A Ray that this process has already joined is used as it is. The dashboard, whose job interface runs code, stays
    off. Raises TrainingError where Ray's authentication is turned off, where no cluster answers, where too few files
    may be open, or where Ray's token or sockets cannot be written.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise TrainingError(f"RAY_AUTH_MODE={mode!r} would turn off Ray's authentication: unset it to train")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None and address != "auto":
        check_reachable(address)
    if address is None:
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
    import ray

    if is_joined():
        return RaySession(ray, is_shared=True)
    require_open_files(num_processes)
    session = RaySession.begin(ray, is_local=address is None)
    try:
        # One that ended this process while Ray starts would leave some of Ray's processes behind.
        with delay_stop_signals(), keep_signal_handler():
            _init(ray, num_processes, address, session.folder)
    except BaseException:
        session.close()
        raise
    return session


def _init(ray: Any, num_processes: int, address: str | None, folder: Path | None) -> None:
    """`ray.init`, its errors turned into TrainingError."""
    from ray.job_config import JobConfig

    job = JobConfig()
    job._py_driver_sys_path = NoPlaces()
    where: dict[str, Any] = {"address": address}
    if folder is not None:
        num_cpus = max(num_processes, os.cpu_count() or 1)
        # Ray opens its own folder to everybody; the one that it is in is closed to others.
        where = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False, "_temp_dir": str(folder / "r")}
    previous_umask = os.umask(0o077)
    try:
        ray.init(
            **where,
            configure_logging=True,
            logging_level=logging.ERROR,
            # Environments may print without end.
            log_to_driver=False,
            job_config=job,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(import_places())}},
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        raise TrainingError(f"no Ray cluster could be joined at {address}: {error}") from error
    except OSError as error:
        raise TrainingError(
            f"Ray did not start: {error}; its token, which keeps other users out, is kept in .ray in the home folder: "
            f"set HOME to a folder that can be written"
        ) from error
    finally:
        os.umask(previous_umask)


@contextlib.contextmanager
def keep_signal_handler() -> Iterator[None]:
    """Keep Ray's start from replacing the handler of SIGTERM by one that ends this process in the midst of a call."""
    from ray._private import utils

    replace = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = replace


def import_places() -> list[str]:
    """Where actors import from: where this process does.

    The working folder, which is the empty place here, comes last, so that no file there stands in for a library's.
    """
    return [*filter(None, sys.path), *([os.getcwd()] if "" in sys.path else [])]
