"""Pictures of an agent at work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np

from envs import EnvError
from training.errors import InputError
from training.files import write_file

MAX_FRAMES = 2000
SUFFIXES = (".gif", ".mp4")


class FrameRecorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the frames of an environment's first episode, up to MAX_FRAMES.

    Raises EnvError where the environment does not list the render mode "rgb_array".
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        modes = env.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            raise EnvError(f"{env}: gives no pictures: its render modes are {modes}, expected rgb_array among them")
        self.frames: list[np.ndarray] = []
        self.frames_per_second = int(env.metadata.get("render_fps", 10))
        self._resets = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**kwargs)
        self._resets += 1
        self._keep()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self._keep()
        return result

    def _keep(self) -> None:
        if self._resets == 1 and len(self.frames) < MAX_FRAMES:
            frame: Any = self.env.render()
            if not isinstance(frame, np.ndarray):
                raise ValueError(f"{self.env}: rendering to rgb_array gave no picture")
            self.frames.append(frame)


def check_video_path(path: Path) -> None:
    """Raise InputError, before anything is played, where `write_video` could not write a file."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file name ending in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is not a regular file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written")


def write_video(path: Path, frames: list[np.ndarray], frames_per_second: int) -> None:
    """Write frames (height, width, 3) to the file of a checked path."""
    if path.suffix == ".gif":
        options: dict[str, Any] = {"duration": 1000 / frames_per_second, "loop": 0}
    else:
        options = {"fps": frames_per_second, "macro_block_size": 2}
    write_file(path, imageio.imwrite("<bytes>", np.stack(frames), extension=path.suffix, **options))
