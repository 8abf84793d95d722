"""Online spherical k-means: centroids follow the vectors that chose them, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.core import SumInPlace

IDLE_UPDATES = 20
"""A centroid that no vector chose in as many updates in a row is placed anew."""
SPLIT = 0.3
"""Length of the random step from the busiest centroid, of length 1, to one that is placed anew beside it."""


class OnlineKMeans(nn.Module):
    """Centroids of unit length for each of H heads (Roy et al., 2003.05997).

    Training calls `observe` in each forward pass and `update` after each update of the weights. Each centroid is the
    direction of an exponential moving average of the vectors that chose it. It is kept in buffers, so that it is saved
    and published with the weights.
    """

    centroids: Tensor
    """(H, clusters, W), of unit length."""
    sums: Tensor
    """(H, clusters, W), the moving averages of the sum of each centroid's vectors in an update."""
    idle: Tensor
    """(H, clusters) int64, updates since a vector last chose each centroid."""
    reseeded: Tensor
    """() int64, how many centroids were placed anew so far."""
    drift: Tensor
    """(), the mean distance by which centroids moved in the last update."""

    def __init__(self, num_heads: int, num_clusters: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        centroids = functional.normalize(torch.randn(num_heads, num_clusters, width), dim=-1)
        self.register_buffer("centroids", centroids)
        self.register_buffer("sums", centroids.clone())
        self.register_buffer("idle", torch.zeros(num_heads, num_clusters, dtype=torch.int64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.int64))
        self.register_buffer("drift", torch.zeros(()))
        self.observed: Tensor | None = None
        """(H, clusters, W + 1), since the last update: for each centroid the sum of its vectors, and their number."""

    def nearest(self, vectors: Tensor) -> Tensor:
        """(H, ...) int64, the centroid nearest to each of the unit vectors (H, ..., W)."""
        with torch.autocast(vectors.device.type, enabled=False), torch.no_grad():
            flat = vectors.detach().flatten(1, -2).to(self.centroids.dtype)
            return torch.unflatten(
                torch.bmm(flat, self.centroids.transpose(1, 2)).argmax(dim=-1), 1, vectors.shape[1:-1]
            )

    @torch.no_grad()
    def observe(self, vectors: Tensor, chosen: Tensor) -> None:
        """Count the unit vectors (H, B, T, W) and the centroids chosen (H, B, T) for the next update."""
        heads, num_clusters, width = self.centroids.shape
        flat = functional.pad(vectors.detach().flatten(1, -2).to(self.centroids.dtype), (0, 1), value=1.0)
        index = chosen.flatten(1)[..., None].expand_as(flat)
        if self.observed is None:
            self.observed = flat.new_zeros(heads, num_clusters, width + 1)
        self.observed.scatter_add_(1, index, flat)

    @torch.no_grad()
    def update(self, sum_over_workers: SumInPlace | None = None) -> None:
        """Move the centroids by what was observed, here and by all other workers, which thus keep equal centroids."""
        if self.observed is None:
            return
        observed, self.observed = self.observed, None
        if sum_over_workers is not None:
            sum_over_workers(observed)
        if not observed.isfinite().all():
            return
        sums, counts = observed[..., :-1], observed[..., -1]
        before = self.centroids.clone()
        is_chosen = (counts > 0)[..., None]
        self.sums.copy_(torch.where(is_chosen, torch.lerp(sums, self.sums, self.decay), self.sums))
        self.centroids.copy_(torch.where(is_chosen, functional.normalize(self.sums, dim=-1), self.centroids))
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
        self.drift.copy_((self.centroids - before).norm(dim=-1).mean())
        self.reseed(counts)

    def reseed(self, counts: Tensor) -> None:
        """Place each centroid that was idle for too long beside the busiest one of its head, so that the two share its
        vectors. counts: (H, clusters), the vectors of the last update."""
        is_idle = self.idle >= IDLE_UPDATES
        if not is_idle.any():
            return
        # From a seed that is equal on all workers and after a resume.
        generator = torch.Generator().manual_seed(int(self.reseeded))
        noise = torch.randn(self.centroids.shape, generator=generator).to(self.centroids)
        heads = torch.arange(len(counts), device=counts.device)
        busiest = self.centroids[heads, counts.argmax(dim=-1)][:, None]
        beside = functional.normalize(busiest + SPLIT * functional.normalize(noise, dim=-1), dim=-1)
        self.centroids.copy_(torch.where(is_idle[..., None], beside, self.centroids))
        self.sums.copy_(torch.where(is_idle[..., None], beside * self.sums.norm(dim=-1, keepdim=True), self.sums))
        self.idle.masked_fill_(is_idle, 0)
        self.reseeded += is_idle.sum()
