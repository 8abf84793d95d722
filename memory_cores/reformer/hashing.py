"""Locality-sensitive hashing by random rotations (Andoni et al., 1509.02897; Kitaev et al., 2001.04451, section 2)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def rotation(seed: int, layer: int, turn: int, num_heads: int, width: int, num_buckets: int) -> Tensor:
    """The rotation (H, W, num_buckets / 2), float64, of one hash round of one layer, drawn from a seed.

    A round's rotation does not depend on the number of rounds, which may thus differ between training and evaluation.
    """
    generator = torch.Generator().manual_seed((seed * 4099 + layer) * 4099 + turn)
    return torch.randn(num_heads, width, num_buckets // 2, generator=generator, dtype=torch.float64)


def rotations(seeds: Tensor, layer: int, rounds: int, num_heads: int, width: int, num_buckets: int) -> Tensor:
    """The rotations (B or 1, rounds, H, W, num_buckets / 2) for rows of seeds (B,); 1 where all rows have one seed."""
    distinct, row = torch.unique(seeds, return_inverse=True)
    drawn = torch.stack(
        [
            torch.stack([rotation(seed, layer, turn, num_heads, width, num_buckets) for turn in range(rounds)])
            for seed in distinct.tolist()
        ]
    ).to(seeds.device)
    return drawn if len(drawn) == 1 else drawn[row]


def buckets(vectors: Tensor, rotations: Tensor) -> Tensor:
    """(rounds, H, B, N) int64, the bucket argmax [xR; -xR] of each of the unit vectors x (H, B, N, W) in each round.

    rotations: (B or 1, rounds, H, W, num_buckets / 2). Nearby vectors are likely to fall into the same bucket.
    """
    with torch.autocast(vectors.device.type, enabled=False), torch.no_grad():
        turned = torch.einsum("hbnw,brhwk->rhbnk" if len(rotations) > 1 else "hbnw,xrhwk->rhbnk", vectors, rotations)
        return torch.cat([turned, -turned], dim=-1).argmax(dim=-1)
