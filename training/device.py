"""The device that a configuration names."""

from __future__ import annotations

from training.errors import UserError


def require_device(name: str) -> None:
    """Raise UserError where `train.device`, cpu or cuda or cuda:N, names a device that torch does not find here."""
    if name == "cpu":
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    _, _, index = name.partition(":")
    if int(index or 0) >= count:
        found = f"finds {count} CUDA device{'s' if count > 1 else ''}" if count else "finds no CUDA device"
        raise UserError(f"train.device: {name}: torch {torch.__version__} {found} here; train.device=cpu needs none")
