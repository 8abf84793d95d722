"""Actors on several nodes of a Ray cluster, of which one dies; an object store that is too small."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.actor_pool import ActorPool
from agents.cluster import LOCAL, start_ray
from agents.config import ExperimentConfig
from agents.ray_session import (
    OPEN_FILES,
    OPEN_FILES_OF_PROCESS,
    PLACES,
    make_private_folder,
    require_open_files,
)
from agents.trainer import ImpalaTrainer
from tests.agents.processes import actor_pids, parent
from training.errors import TrainingError
from training.stop_signals import STOP_SIGNALS, delay_stop_signals

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"
WIDE = "tests.agents.faulty_envs:Wide-v0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that takes no actors, with a small object store, and two nodes for two actors each."""
    before = dict(os.environ)
    os.environ.update(LOCAL)
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    for _ in range(2):
        cluster.add_node(num_cpus=2, resources={"worker": 2}, **store)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_a_run_goes_on_when_a_node_dies(cluster: Any, make_config: MakeConfig) -> None:
    config = make_config(RANDOM_EPISODES, num_actors=3, max_actor_restarts=3)
    trainer = ImpalaTrainer(config, address=cluster.address)
    try:
        ray = trainer.actors.ray
        trainer.update()
        while len({trainer.actors.next_unroll().actor for _ in range(6)}) < 3:
            pass
        # An actor's process is a child of its node's raylet.
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
        places = {parent(pid) for pid in actor_pids()} & set(raylets)
        assert len(places) == 2
        dying = raylets[places.pop()]
        cluster.remove_node(dying, allow_graceful=False)
        deadline = time.monotonic() + 300
        while not (metrics := trainer.update())["actors/restarts"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert metrics["actors/given_up"] == 0
        steps = trainer.step_count
        trainer.update()
        assert trainer.step_count > steps
        assert ray.is_initialized()
    finally:
        trainer.close()


def test_a_file_of_a_librarys_name_where_the_run_was_started_is_not_imported_by_actors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: MakeConfig
) -> None:
    for module in ("agents", "torch"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('not the library')")
    (tmp_path / "my_maze.py").write_text("from tests.agents.scripted_envs import RandomEpisodes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    pool = ActorPool(make_config("my_maze:RandomEpisodes", num_actors=1))
    try:
        pool.spaces()  # asked in a process that imports what an actor's does
    finally:
        pool.close()


def test_a_home_folder_that_cannot_be_written_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied", "/.ray")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("agents.cluster.is_joined", lambda: False)
    with pytest.raises(TrainingError, match=r"'/\.ray'.*set HOME to a folder that can be written"):
        start_ray(1)


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "none", "disabled ", ""])
def test_authentication_cannot_be_turned_off(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(TrainingError, match=f"RAY_AUTH_MODE={mode!r} would turn off"):
        start_ray(1)


def test_too_few_open_files_are_told_of_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr("agents.cluster.is_joined", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 64))
    with pytest.raises(TrainingError, match=r"64 files may be open here .*, Ray needs \d+ for this run"):
        start_ray(2)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    require_open_files(2)
    assert raised == [(OPEN_FILES + 2 * OPEN_FILES_OF_PROCESS, 4096)]


def test_the_private_folder_has_a_short_path_or_there_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 40)))
    folder = make_private_folder()
    assert str(folder.parent) in PLACES
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    monkeypatch.setattr("agents.ray_session.PLACES", ("/nowhere",))
    with pytest.raises(TrainingError, match=r"x has more than 30 bytes; /nowhere: No such file .* set TMPDIR"):
        make_private_folder()


def test_signals_wait_until_ray_has_started_and_a_second_one_does_not() -> None:
    told: list[str] = []
    before = {number: signal.signal(number, lambda *_: told.append("handled")) for number in STOP_SIGNALS}
    try:
        with delay_stop_signals():
            signal.raise_signal(signal.SIGTERM)
            told.append("started")
        assert told == ["started", "handled"]
        with delay_stop_signals():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)
            assert told[2:] == ["handled"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("num_actors", [0, 1])
def test_statistics_kept_in_a_wrapper_are_warned_of_before_training(
    cluster: Any, make_config: MakeConfig, caplog: pytest.LogCaptureFixture, num_actors: int
) -> None:
    wrappers = {"wrappers": [{"NormalizeObservation": {}}, {"NormalizeReward": {}}]}
    config = make_config(RANDOM_EPISODES, env_kwargs=wrappers, num_actors=num_actors)
    ImpalaTrainer(config, address=cluster.address if num_actors else None).close()
    assert "use agent.normalize_observations=true in its place" in caplog.text
    assert "use agent.reward_scale in its place" in caplog.text


def test_unrolls_too_large_for_the_object_store_are_refused_with_the_size(
    cluster: Any, make_config: MakeConfig
) -> None:
    config = make_config(WIDE, env_kwargs={"size": 2**20}, num_actors=1, unroll_length=20, envs_per_actor=1)
    # Six unrolls of 21 MiB: two in flight and four of the batch.
    with pytest.raises(TrainingError, match=r"room for 67 MB, and 333 MB can be in flight: 6 unrolls of 22\.0 MB"):
        ImpalaTrainer(config, address=cluster.address)


def test_too_few_cpus_are_told_of_at_once(
    cluster: Any, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ActorPool(make_config(RANDOM_EPISODES, num_actors=99), cluster.address)
    pool.close()
    assert "one for each of 99 processes is needed" in caplog.text


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:9", r"no Ray cluster could be joined at 127\.0\.0\.1:9"), ("head", "expected HOST:PORT or auto")],
)
def test_no_cluster_is_one_clear_error(make_config: MakeConfig, address: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        ImpalaTrainer(make_config(RANDOM_EPISODES, num_actors=1), address=address)
