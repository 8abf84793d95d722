"""How attention knows distance: Transformer-XL's relative positions, rotary embeddings, or not at all."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.patterns import Run, View

Positions = Literal["relative", "rotary", "none"]


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(N, width): the sines, then the cosines, of `positions` (N,) at width / 2 frequencies.

    Dai et al., 1901.02860, section 3.3, after Vaswani et al., 1706.03762, section 3.5.
    """
    angles = rotary_angles(positions, width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


def rotary_angles(positions: Tensor, width: int) -> Tensor:
    """(N, width / 2) float64: position * 10000^(-2i / width).

    Computed in float64, since float32 loses the small differences between large angles.
    """
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    return positions.to(torch.float64)[:, None] * 10000.0**-exponents


def rotary_table(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The cosines and sines, each (N, width / 2), by which `rotate` turns vectors at `positions` (N,)."""
    angles = rotary_angles(positions, width)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (..., N, width) with each pair (x_i, x_{i + width/2}) turned by its angle (Su et al., 2104.09864).

    cosine, sine: (N, width / 2). A product of two rotated vectors depends on the difference of their
    positions alone.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.to(x.dtype)


class RotaryPositions(NamedTuple):
    """The angles of a call: cosines and sines, each (N, W / 2), of its N keys and (T, W / 2) of its queries."""

    keys: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]

    def at(self, steps: Tensor) -> RotaryPositions:
        """The positions for the queries of the steps (B, S) alone."""
        cosine, sine = (table[steps][:, None] for table in self.queries)  # (B, 1, S, W / 2)
        return self._replace(queries=(cosine, sine))


class RelativePositions(NamedTuple):
    """The relative positions of a call, which are the same in all layers."""

    table: Tensor
    """(N, D), sinusoids of distances that fall by one, beginning with that of the farthest key."""
    farthest: int
    """The first distance of the table."""
    content_bias: Tensor
    """(H, 1, W), u of the paper."""
    position_bias: Tensor
    """(H, 1, W), v of the paper."""

    def at(self, steps: Tensor) -> RelativePositions:
        """The positions for the queries of the steps (B, S) alone: unchanged, since their views give the distances."""
        return self


class RelativeTerms(NamedTuple):
    """The scores of one layer with relative positions (Dai et al., 1901.02860, section 3.3).

    The score of query i and key j is q_i . k_j + u . k_j + (q_i + v) . W_r R_{i-j}, where the queries and both biases
    are scaled by 1 / sqrt(W).
    """

    table: Tensor
    """(H, W, N), W_r R of distances that fall by one."""
    farthest: int
    """The first distance of the table."""
    content_bias: Tensor
    """(H, 1, W), u scaled."""
    position_bias: Tensor
    """(H, 1, W), v scaled."""

    def scores(self, query: Tensor, key: Tensor, view: View) -> Tensor:
        """The scores (H, B, S, K) of scaled queries (H, B, S, W) and the keys (H, B, K, W) of a view."""
        content, position = query + self.content_bias[:, None], query + self.position_bias[:, None]
        if view.distances is not None:
            return content @ key.transpose(-1, -2) + self.gather_products(position, view.distances)
        return self.with_runs(content, position, key, view.runs)

    def with_runs(self, content: Tensor, position: Tensor, key: Tensor, runs: tuple[Run, ...]) -> Tensor:
        """The scores (H, B, S, K) of consecutive queries and the keys (H, B, K, W) of runs.

        content, position: (H, B, S, W), the scaled queries with the bias u and with the bias v.
        """
        by_run = [self.shift_products(position, run) for run in runs]
        if len(runs) == 1:
            flat = by_run[0].flatten(0, 1), content.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
            return torch.baddbmm(*flat).view_as(by_run[0])
        scores = content @ key.transpose(-1, -2)
        # In place, since scores are most of the memory traffic of a layer and none is needed twice.
        first = 0
        for of_run in by_run:
            scores[..., first : first + of_run.shape[-1]].add_(of_run)
            first += of_run.shape[-1]
        return scores

    def of_step(self, query: Tensor, key: Tensor, run: Run) -> Tensor:
        """The scores (H B, 1, K) of the scaled queries (H, B, W) of one step and the keys (H B, K, W) of a run.

        They equal those of `scores` for one query, in as few operations as possible.
        """
        content, position = query + self.content_bias, query + self.position_bias
        at_distance = torch.bmm(position, self.of_run(run)).view(-1, 1, key.shape[1])
        return at_distance.baddbmm_(content.reshape(-1, 1, key.shape[2]), key.transpose(1, 2))

    def of_run(self, run: Run) -> Tensor:
        """The table's columns (H, W, K) of the distances of a run from its first query."""
        columns = self.columns(run.distance + run.stride * (run.length - 1), run.distance)
        return columns if run.stride == 1 else columns[..., :: run.stride]

    def gather_products(self, query: Tensor, distances: Tensor) -> Tensor:
        """The products (H, B, S, K) of queries (H, B, S, W) with the terms of distances; arbitrary at masked keys."""
        heads, batch, steps, _ = query.shape
        products = (query.flatten(1, 2) @ self.table).view(heads, batch, steps, -1)
        column = (self.farthest - distances).clamp(0, products.shape[-1] - 1)
        return products.gather(3, column.expand(heads, batch, -1, -1))

    def shift_products(self, query: Tensor, run: Run) -> Tensor:
        """The products (H, B, S, K) of consecutive queries (H, B, S, W) with the terms of their distances from a run.

        The distances of a query are those of the query before it, moved by one. One product with the table and one
        shift therefore give all of them. Where keys lie c steps apart, this holds for every c-th query, so the queries
        are computed in c groups.
        """
        heads, batch, steps, width = query.shape
        count, stride = run.length, run.stride
        if steps == 1:
            return (query[:, :, 0] @ self.of_run(run))[:, :, None]
        if stride == 1:
            # Keys after a query are masked, so beyond distance -1 the shift may read arbitrary entries.
            columns = self.columns(run.distance + count + steps - 2, max(run.distance, -1))
            products = (query.flatten(1, 2) @ columns).view(heads, batch, steps, -1)
            return relative_shift(products, count)
        groups = -(-steps // stride)
        query = functional.pad(query, (0, 0, 0, groups * stride - steps))
        query = query.reshape(heads, batch, groups, stride, width).transpose(2, 3)
        num_columns = count + groups - 1
        table = self.columns(run.distance + stride * num_columns - 1, run.distance)
        table = table.view(heads, width, num_columns, stride).flip(-1).permute(0, 3, 1, 2)  # (H, c, W, columns)
        products = relative_shift(query @ table[:, None], count)  # (H, B, c, groups, K)
        return products.transpose(2, 3).flatten(2, 3)[:, :, :steps]

    def columns(self, first: int, last: int) -> Tensor:
        """(H, W, N), the table's columns of the N distances first, first - 1, ..., last."""
        return self.table[..., self.farthest - first : self.farthest - last + 1]


def farthest_distance(run: Run, steps: int) -> int:
    """The largest distance that `RelativeTerms` reads from its table for `steps` consecutive queries and a run."""
    groups = -(-steps // run.stride)
    return run.distance + run.stride * (run.length + groups - 1) - 1


def nearest_distance(run: Run) -> int:
    """The smallest distance that `RelativeTerms` reads from its table for a run."""
    return max(run.distance, -1) if run.stride == 1 else run.distance


def relative_shift(products: Tensor, count: int) -> Tensor:
    """(..., S, count), the products (..., S, columns) of S consecutive queries and falling distances, by key.

    Row i moves left by S - 1 - i. That is a view with the row stride columns - 1, not a copy, in which entries from
    beyond the end of a row belong to the next row and must be masked. Dai et al., 1901.02860, appendix B.
    """
    queries, columns = products.shape[-2:]
    if queries == 1:
        return products[..., :count]
    moved = products.flatten(-2)[..., queries - 1 : queries - 1 + queries * (columns - 1)]
    return moved.view(*products.shape[:-1], columns - 1)[..., :count]
