"""The configurations that come with the program."""

from __future__ import annotations

from pathlib import Path


def shipped_configs() -> dict[str, Path]:
    """The file of each configuration by the name that `train` takes, such as `rl/tmaze.yaml`."""
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.yaml"))}
    return {}


def find_config(name: str) -> Path:
    """The file that a user means by a path, or by the name of a shipped configuration with or without `.yaml`."""
    shipped = shipped_configs()
    return Path(name) if Path(name).exists() else shipped.get(name, shipped.get(f"{name}.yaml", Path(name)))
