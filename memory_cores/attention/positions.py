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
    """Cosines and sines, each (N, width / 2), that `rotate` turns vectors at `positions` (N,) by."""
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
        """For the queries of the steps (B, S) alone."""
        cosine, sine = (table[steps] for table in self.queries)  # (B, S, W / 2)
        return self._replace(queries=(cosine, sine))


class RelativePositions(NamedTuple):
    """What the relative positions of a call take from all layers alike."""

    table: Tensor
    """(N, D), sinusoids of distances that fall by one, from the farthest key's on."""
    farthest: int
    """The first distance of the table."""
    content_bias: Tensor
    """(H, 1, W), u of the paper."""
    position_bias: Tensor
    """(H, 1, W), v of the paper."""

    def at(self, steps: Tensor) -> RelativePositions:
        """For the queries of some steps alone, whose views give the distances."""
        return self


class RelativeTerms(NamedTuple):
    """What the relative positions of one layer add to its scores (Dai et al., 1901.02860, section 3.3).

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
        """(H, B, S, K), of scaled queries (H, B, S, W) and the keys (H, B, K, W) of a view."""
        content, position = query + self.content_bias[:, None], query + self.position_bias[:, None]
        if view.distances is not None:
            return content @ key.transpose(-1, -2) + self.gathered(position, view.distances)
        return self.with_runs(content, position, key, view.runs)

    def with_runs(self, content: Tensor, position: Tensor, key: Tensor, runs: tuple[Run, ...]) -> Tensor:
        """(H, B, S, K), of queries in a row, with the biases of the content and of the position, and keys of runs."""
        by_run = [self.in_a_row(position, run) for run in runs]
        if len(runs) == 1:
            flat = by_run[0].flatten(0, 1), content.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
            return torch.baddbmm(*flat).view_as(by_run[0])
        scores = content @ key.transpose(-1, -2)
        # In place, since the scores are most of what a layer moves and none is needed twice.
        first = 0
        for of_run in by_run:
            scores[..., first : first + of_run.shape[-1]].add_(of_run)
            first += of_run.shape[-1]
        return scores

    def of_step(self, query: Tensor, key: Tensor, run: Run) -> Tensor:
        """(H B, 1, K), of the scaled queries (H, B, W) of one step and the keys (H B, K, W) of a run.

        These are the `scores` of one query, in as few operations as it takes.
        """
        content, position = query + self.content_bias, query + self.position_bias
        at_distance = torch.bmm(position, self.of_run(run)).view(-1, 1, key.shape[1])
        return at_distance.baddbmm_(content.reshape(-1, 1, key.shape[2]), key.transpose(1, 2))

    def of_run(self, run: Run) -> Tensor:
        """The table's columns (H, W, K) of the distances of a run from its first query."""
        columns = self.columns(run.distance + run.stride * (run.length - 1), run.distance)
        return columns if run.stride == 1 else columns[..., :: run.stride]

    def gathered(self, query: Tensor, distances: Tensor) -> Tensor:
        """The products (H, B, S, K) of queries (H, B, S, W) with their distances; those of masked keys may be any."""
        heads, batch, steps, _ = query.shape
        products = (query.flatten(1, 2) @ self.table).view(heads, batch, steps, -1)
        column = (self.farthest - distances).clamp(0, products.shape[-1] - 1)
        return products.gather(3, column.expand(heads, batch, -1, -1))

    def in_a_row(self, query: Tensor, run: Run) -> Tensor:
        """The products (H, B, S, K) of queries (H, B, S, W) in a row with their distances from the keys of a run.

        A query's row of products is that of the query before it moved by one, so that all come out of one product with
        the table and a shift. Where the keys lie c steps apart, so do the queries that see them at the same distances
        but for a shift: each of c groups of queries is such a product.
        """
        heads, batch, steps, width = query.shape
        count, stride = run.length, run.stride
        if steps == 1:
            return (query[:, :, 0] @ self.of_run(run))[:, :, None]
        if stride == 1:
            # Keys after a query are masked, so that beyond distance -1 the shift may take anything.
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
        """The table's columns of the distances first, first - 1, ..., last."""
        return self.table[..., self.farthest - first : self.farthest - last + 1]


def farthest_distance(run: Run, steps: int) -> int:
    """The largest distance at which `RelativeTerms` looks in its table for `steps` queries in a row."""
    groups = -(-steps // run.stride)
    return run.distance + run.stride * (run.length + groups - 1) - 1


def nearest_distance(run: Run) -> int:
    """The smallest such distance."""
    return max(run.distance, -1) if run.stride == 1 else run.distance


def relative_shift(products: Tensor, count: int) -> Tensor:
    """Align products (..., S, C) of S queries in a row with distances that fall by one, so that columns are keys.

    Row i moves left by S - 1 - i, which is a view with the row stride C - 1, no copy; (..., S, count) is returned.
    Entries that come from beyond the end of a row are another's and must be masked. Dai et al., 1901.02860, appendix B.
    """
    queries, columns = products.shape[-2:]
    if queries == 1:
        return products[..., :count]
    moved = products.flatten(-2)[..., queries - 1 : queries - 1 + queries * (columns - 1)]
    return moved.view(*products.shape[:-1], columns - 1)[..., :count]
