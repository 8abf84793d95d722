"""Configurations that come with the program are found by name, whatever folder it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie import shipped_configs


def test_shipped_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "rl").mkdir(parents=True)
    shipped = tmp_path / "configs" / "rl" / "maze.yaml"
    shipped.touch()
    monkeypatch.setattr(shipped_configs, "__file__", str(tmp_path / "reverie" / "shipped_configs.py"))
    assert shipped_configs.find_config("rl/maze") == shipped
    assert shipped_configs.find_config("rl/maze.yaml") == shipped
    assert shipped_configs.find_config("../x") == Path("../x")
