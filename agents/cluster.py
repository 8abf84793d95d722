"""Ray on this machine, reachable from this machine only."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from agents.learner import TrainingError


def start_ray(num_actors: int) -> Any:
    """Start a private Ray instance with room for `num_actors` processes and return the module.

    Ray's services bind to every interface on Linux unless this variable, meant for other systems, is set before its
    import; then every port is on the loopback address. The dashboard, whose job interface runs code, stays off.
    Raises TrainingError where Ray's authentication is turned off.
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        raise TrainingError("RAY_AUTH_MODE=disabled turns off Ray's authentication: unset it to train")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Workers at Ray's default niceness of 15 starve while the learner computes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return ray
    previous_umask = os.umask(0o077)
    try:
        ray.init(
            address="local",
            num_cpus=max(num_actors, os.cpu_count() or 1),
            include_dashboard=False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=True,
            # Environments may live in modules that only this process can import from where it stands.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}},
        )
    finally:
        os.umask(previous_umask)
    return ray
