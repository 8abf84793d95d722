from __future__ import annotations

import functools
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import memory_cores
from memory_cores.attention.block import TransformerBlock
from memory_cores.routing.attention import RoutingAttention
from memory_cores.routing.core import Routing
from memory_cores.routing.kmeans import IDLE_UPDATES, OnlineKMeans
from tests.memory_cores.plain_bands import assert_causal, attend_to, plain_core, random_episodes, turned


def build(**options: Any) -> Routing:
    core = memory_cores.build("routing", **{"d_model": 12, "num_heads": 3, "d_ff": 8, "block": "pre"} | options)
    assert isinstance(core, Routing)
    return core.double()


def plain_routing(core: Routing, x: Tensor, reset: Tensor) -> Tensor:
    memory = core.schedule.memory_length

    def attend(block: TransformerBlock, x: Tensor, start: int) -> Tensor:
        attention = cast(RoutingAttention, block.attention)
        times = range(len(x))
        contexts = []
        if attention.local is not None:
            query, key, value = (attention.local.heads(part) for part in attention.local.qkv(x).chunk(3, dim=-1))
            for q, k, v in zip(query, key, value, strict=True):
                q, k = turned(core, q), turned(core, k)
                first = [max(0, t - attention.local.window) for t in times]
                contexts.append(torch.stack([attend_to(q[t], k[first[t] : t + 1], v[first[t] : t + 1]) for t in times]))
        heads = attention.routed
        keys, values = heads.key_value(x).chunk(2, dim=-1)
        for head in range(heads.num_heads):
            of_head = slice(head * heads.head_width, (head + 1) * heads.head_width)
            unit, v = functional.normalize(keys[:, of_head], dim=-1), values[:, of_head]
            cluster = [int((heads.clusters.centroids[head] @ key).argmax()) for key in unit]
            scaled = turned(core, unit) * heads.head_width**0.5  # keys and queries of length sqrt(W)
            of_steps = []
            for t in times:
                members = [j for j in range(max(0, t - memory), t) if cluster[j] == cluster[t]][-heads.window :] or [t]
                of_steps.append(attend_to(scaled[t], scaled[members], v[members]))
            contexts.append(torch.stack(of_steps))
        return torch.cat(contexts, dim=-1)

    return plain_core(core, x, reset, attend)


@given(
    num_clusters=st.integers(1, 4),
    window=st.integers(1, 5),
    local_heads=st.integers(0, 2),
    memory_length=st.integers(5, 12),
    positions=st.sampled_from(["rotary", "none"]),
    seed=st.integers(0, 2**31),
)
def test_a_step_sees_the_latest_members_of_its_cluster(
    num_clusters: int, window: int, local_heads: int, memory_length: int, positions: str, seed: int
) -> None:
    core = build(
        num_clusters=num_clusters,
        window=window,
        local_heads=local_heads,
        local_window=min(3, memory_length),
        memory_length=memory_length,
        positions=positions,
    )
    x, reset = random_episodes(core, 23, seed)
    with torch.no_grad():
        y = core(x, core.initial_state(2), reset).y
        torch.testing.assert_close(y, plain_routing(core, x, reset), rtol=1e-9, atol=1e-9)


def test_one_cluster_with_a_window_of_the_memory_is_sliding_window_attention() -> None:
    core = build(num_clusters=1, window=6, memory_length=6, local_heads=0, local_window=1, num_layers=1)
    x, reset = random_episodes(core, 20, seed=3)
    block = cast(TransformerBlock, core.blocks[0])
    heads = cast(RoutingAttention, block.attention).routed

    def attend(block: TransformerBlock, x: Tensor, start: int) -> Tensor:
        keys, values = heads.key_value(x).chunk(2, dim=-1)
        contexts = []
        for key, value in zip(keys.split(4, dim=-1), values.split(4, dim=-1), strict=True):
            key = turned(core, functional.normalize(key, dim=-1) * 2.0)
            scores = key @ key.T / 2.0
            behind = torch.arange(len(x))[:, None] - torch.arange(len(x))
            visible = (behind > 0) & (behind <= 6)
            visible[0, 0] = True  # it has no other target
            contexts.append(scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ value)
        return torch.cat(contexts, dim=-1)

    with torch.no_grad():
        y = core(x, core.initial_state(2), reset).y
        torch.testing.assert_close(y, plain_core(core, x, reset, attend), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("resets", [0.0, 1.0])
@pytest.mark.parametrize("options", [{"num_clusters": 1, "window": 2}, {"num_clusters": 3, "window": 1}])
def test_it_is_causal_where_all_keys_are_equal_and_a_cluster_overflows(options: dict[str, Any], resets: float) -> None:
    core = build(memory_length=4, local_window=2, **options)
    assert_causal(core, torch.ones(1, 9, 12, dtype=torch.float64), torch.rand(1, 9) < resets)


def points(around: Tensor, count: int, seed: int) -> Tensor:
    """(1, 1, N, W), unit vectors around each of some directions (clusters, W)."""
    noise = torch.randn(count, *around.shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    return functional.normalize(around + noise, dim=-1).flatten(0, 1)[None, None]


def test_centroids_find_the_directions_of_the_vectors() -> None:
    torch.manual_seed(1)
    around = torch.eye(4)
    kmeans = OnlineKMeans(1, 4, 4, decay=0.9)
    with torch.no_grad():  # all begin beside one another, so that some must be placed anew
        kmeans.centroids.copy_(functional.normalize(torch.ones(4, 4) + 0.01 * torch.randn(4, 4), dim=-1))
        kmeans.sums.copy_(kmeans.centroids)
    for update in range(40 * IDLE_UPDATES):
        vectors = points(around, 8, update)
        kmeans.observe(vectors, kmeans.nearest(vectors))
        kmeans.update()
    assert kmeans.reseeded > 0
    near = (kmeans.centroids[0] @ around.T).amax(dim=0)
    assert (near > 0.99).all(), near
    torch.testing.assert_close(kmeans.centroids.norm(dim=-1), torch.ones(1, 4))


def replace(tensor: Tensor, by: Tensor) -> None:
    tensor.copy_(by)


def test_workers_that_share_what_they_observe_keep_equal_centroids() -> None:
    torch.manual_seed(2)
    whole = OnlineKMeans(2, 3, 4, decay=0.5)
    halves = [OnlineKMeans(2, 3, 4, decay=0.5) for _ in range(2)]
    for half in halves:
        half.load_state_dict(whole.state_dict())
    for update in range(2 * IDLE_UPDATES):
        vectors = points(torch.eye(4)[:2], 2, update).expand(2, -1, -1, -1)
        whole.observe(vectors, whole.nearest(vectors))
        whole.update()
        for half, part in zip(halves, vectors.chunk(2, dim=2), strict=True):
            half.observe(part, half.nearest(part))
        total = sum((half.observed for half in halves if half.observed is not None), torch.zeros(()))
        for half in halves:
            half.update(functools.partial(replace, by=total))
        for half in halves:
            for name, tensor in whole.state_dict().items():
                torch.testing.assert_close(half.state_dict()[name], tensor)
    assert whole.reseeded > 0


def test_centroids_move_in_training_alone_and_never_by_a_gradient() -> None:
    core = build(memory_length=8, window=4, local_window=4, num_layers=1)
    clusters = core.routed[0].clusters
    before = clusters.centroids.clone()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    with torch.no_grad():
        core(x, core.initial_state(2))
    core.eval()
    core(x, core.initial_state(2)).y.sum().backward()
    core.after_update()
    torch.testing.assert_close(clusters.centroids, before, rtol=0, atol=0)
    core.train()
    core(x, core.initial_state(2)).y.sum().backward()
    torch.testing.assert_close(clusters.centroids, before, rtol=0, atol=0)
    core.after_update()
    assert not torch.equal(clusters.centroids, before)
    assert core(x, core.initial_state(2)).metrics["centroid_drift"] > 0
    assert "blocks.0.attention.routed.clusters.centroids" in core.state_dict()
    assert not any("clusters" in name for name, _ in core.named_parameters())


def test_what_is_not_finite_moves_no_centroid() -> None:
    kmeans = OnlineKMeans(1, 2, 2, decay=0.5)
    before = {name: tensor.clone() for name, tensor in kmeans.state_dict().items()}
    vectors = torch.tensor([[[[torch.nan, 1.0], [1.0, 0.0]]]])
    kmeans.observe(vectors, torch.zeros(1, 1, 2, dtype=torch.int64))
    kmeans.update()
    torch.testing.assert_close(kmeans.state_dict(), before)


def test_bad_options_are_reported_together() -> None:
    with pytest.raises(memory_cores.OptionsError) as raised:
        memory_cores.build(
            "routing",
            d_model=16,
            num_heads=2,
            memory_length=4,
            local_heads=2,
            local_window=5,
            num_clusters=6,
            window=7,
            centroid_decay=1.0,
        )
    assert raised.value.problems == [
        "centroid_decay is 1.0, expected a number in [0, 1)",
        "local_heads is 2, expected less than num_heads, 2",
        "local_window is 5, expected at most memory_length, 4",
        "num_clusters is 6, expected at most memory_length, 4",
        "window is 7, expected at most memory_length, 4",
    ]
    with pytest.raises(memory_cores.OptionsError, match="num_clusters is 0, expected an integer >= 1"):
        memory_cores.build("routing", d_model=16, num_clusters=0)
    with pytest.raises(memory_cores.OptionsError, match="d_model is 16, expected a multiple of num_heads, 3"):
        memory_cores.build("routing", d_model=16, num_heads=3)
