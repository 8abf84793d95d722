"""Pictures of an agent at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np

MAX_FRAMES = 2000
SUFFIXES = (".gif", ".mp4")


class FrameRecorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the frames of an environment's first episode, up to MAX_FRAMES."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
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


def write_video(path: Path, frames: list[np.ndarray], frames_per_second: int) -> None:
    """Write frames (height, width, 3) to a .gif or .mp4 file; raises ValueError on any other suffix."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file name ending in {' or '.join(SUFFIXES)}")
    if path.suffix == ".gif":
        imageio.imwrite(path, np.stack(frames), duration=1000 / frames_per_second, loop=0)
    else:
        imageio.imwrite(path, np.stack(frames), fps=frames_per_second, macro_block_size=2)
