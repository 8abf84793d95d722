"""Actor processes that die, fail or hang: replaced and counted, or given up with the cause; the learner goes on."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.actor_pool import ActorPool
from agents.cluster import start_ray
from agents.config import ExperimentConfig
from agents.trainer import ImpalaTrainer
from envs import EnvError
from tests.agents.processes import LOOPBACK, actor_pids, command_line, descendants, parent, state, wait_until
from training.errors import TrainingError

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"
FAULTY = "tests.agents.scripted_envs:Faulty-v0"
ONE_IS_BAD = "tests.agents.faulty_envs:OneIsBad-v0"
RUDE = "tests.agents.faulty_envs:Rude-v0"


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    """One Ray for all of these tests."""
    session = start_ray(4)
    yield session.ray
    session.close()


@pytest.fixture
def make_trainer(make_config: MakeConfig) -> Iterator[Callable[..., ImpalaTrainer]]:
    """Build a trainer that is closed, its processes gone, after the test."""
    made: list[ImpalaTrainer] = []

    def make(*arguments: Any, **fields: Any) -> ImpalaTrainer:
        made.append(ImpalaTrainer(make_config(*arguments, **{"num_actors": 1, "restart_backoff": 0.1} | fields)))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()
    assert wait_until(lambda: not actor_pids(), 20)


def update_until(trainer: ImpalaTrainer, tag: str, value: int) -> dict[str, float]:
    """Train until a count is reached, for five minutes at most; the metrics of that update."""
    deadline = time.monotonic() + 300
    while (metrics := trainer.update())[tag] < value:
        assert time.monotonic() < deadline, f"{tag} is {metrics[tag]}"
        time.sleep(0.05)  # what is waited for is another process, which the training would slow down
    return metrics


def test_killed_actors_are_replaced_and_counted(make_trainer: Callable[..., ImpalaTrainer]) -> None:
    trainer = make_trainer(RANDOM_EPISODES, num_actors=2)
    assert update_until(trainer, "episode/count", 1)["actors/restarts"] == 0
    assert wait_until(lambda: len(actor_pids()) == 2, 30)
    one, other = actor_pids()
    os.kill(one, signal.SIGKILL)
    metrics = update_until(trainer, "actors/restarts", 1)
    assert other in actor_pids()
    assert metrics["actors/given_up"] == 0
    assert 1 <= metrics["actors/lost_unrolls"] <= 2  # in flight at the one that died
    assert wait_until(lambda: len(actor_pids()) == 2, 60)
    incarnations = [slot.incarnation for slot in trainer.actors.slots]
    assert sorted(incarnations) == [0, 1]
    delivered: set[int] = set()
    while len(delivered) < 2:
        unroll = trainer.actors.next_unroll()
        assert unroll.incarnation == incarnations[unroll.actor]
        delivered.add(unroll.actor)


def test_a_stopped_actor_misses_its_deadline_and_does_no_harm_when_it_goes_on(
    make_trainer: Callable[..., ImpalaTrainer],
) -> None:
    trainer = make_trainer(RANDOM_EPISODES, unroll_deadline=0.5)
    update_until(trainer, "episode/count", 1)
    (pid,) = actor_pids()
    os.kill(pid, signal.SIGSTOP)
    metrics = update_until(trainer, "actors/missed_deadlines", 1)
    assert metrics["actors/restarts"] >= 1
    if state(pid) == "T":
        os.kill(pid, signal.SIGCONT)
    assert {trainer.actors.next_unroll().incarnation for _ in range(6)} <= {1, 2, 3}
    assert wait_until(lambda: state(pid) in ("", "Z"), 20)


def test_an_environment_that_hangs_is_replaced_with_its_actor(make_trainer: Callable[..., ImpalaTrainer]) -> None:
    trainer = make_trainer(FAULTY, env_kwargs={"fault": "hang", "at": 20}, unroll_deadline=0.5)
    # Two unrolls of 8 steps, then the third hangs, in each incarnation anew.
    metrics = [trainer.update() for _ in range(3)]
    assert metrics[-1]["actors/missed_deadlines"] >= 1


def test_an_environment_that_always_fails_ends_the_run_with_its_cause(
    make_trainer: Callable[..., ImpalaTrainer],
) -> None:
    trainer = make_trainer(FAULTY, env_kwargs={"fault": "raise", "at": 3}, max_actor_restarts=0, max_env_faults=1)
    with pytest.raises(TrainingError, match=r"actor 0 failed 1 times.*the maze fell in"):
        trainer.update()


def test_the_run_goes_on_without_an_actor_that_was_given_up(
    make_trainer: Callable[..., ImpalaTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kwargs = {"folder": str(tmp_path), "bad": "raise"}
    trainer = make_trainer(ONE_IS_BAD, env_kwargs=kwargs, num_actors=2, max_actor_restarts=1)
    metrics = update_until(trainer, "actors/given_up", 1)
    assert metrics["actors/restarts"] == 1
    assert "no maze today" in caplog.text
    trainer.update()


def test_fewer_actors_than_asked_for_end_the_run(make_config: MakeConfig) -> None:
    pool = ActorPool(make_config(RANDOM_EPISODES, num_actors=2, min_actors=2, max_actor_restarts=0))
    with pytest.raises(TrainingError, match=r"no maze today(.|\n)*agent.min_actors is 2"):
        pool._replace(pool.slots[1], RuntimeError("no maze today"))


def test_a_run_without_actor_processes_goes_on_with_them(make_config: MakeConfig) -> None:
    alone = ImpalaTrainer(make_config(RANDOM_EPISODES))
    pool = ActorPool(make_config(RANDOM_EPISODES, num_actors=2))
    (warning,) = pool.load(alone.state()["actors"])
    assert "the actors begin new episodes, with an empty memory" in warning
    assert [slot.incarnation for slot in pool.slots] == [1, 1]
    assert pool.seeds.past_rows == 4


def test_restarts_back_off(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ActorPool(make_config(RANDOM_EPISODES, num_actors=1, restart_backoff=2.0, max_actor_restarts=8))
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    delays = []
    for _ in range(8):
        pool._replace(pool.slots[0], RuntimeError("again"))
        delays.append(pool.slots[0].starts_at - 1000.0)
    assert delays == [0, 2, 4, 8, 16, 32, 60, 60]


def test_a_slow_actor_is_not_waited_for_and_its_stale_unrolls_are_dropped(
    make_trainer: Callable[..., ImpalaTrainer], tmp_path: Path
) -> None:
    kwargs = {"folder": str(tmp_path), "bad": "slow"}
    trainer = make_trainer(ONE_IS_BAD, env_kwargs=kwargs, num_actors=2, max_policy_lag=3)
    metrics = update_until(trainer, "learner/dropped_unrolls", 1)
    assert metrics["learner/policy_lag_max"] <= 3
    assert metrics["actors/restarts"] == 0


def test_actors_faster_than_the_learner_wait_at_their_bound(make_trainer: Callable[..., ImpalaTrainer]) -> None:
    trainer = make_trainer(RANDOM_EPISODES, num_actors=1, max_in_flight=3)
    update_until(trainer, "episode/count", 1)
    pool = trainer.actors
    time.sleep(1.0)
    ready, pending = pool.ray.wait(list(pool.requests), num_returns=3, timeout=5.0)
    assert (len(ready), len(pending)) == (3, 0)
    (pid,) = actor_pids()
    before = os.times(), Path(f"/proc/{pid}/stat").read_text().split()[13]
    time.sleep(0.5)
    # With nothing asked of it the actor does not act.
    assert int(Path(f"/proc/{pid}/stat").read_text().split()[13]) - int(before[1]) < 20


@pytest.mark.parametrize("how", ["starts_a_child, meddles", "exits"])
def test_what_an_environment_does_to_its_process_stays_there(
    make_trainer: Callable[..., ImpalaTrainer], tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, handler = os.getcwd(), signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(RUDE, env_kwargs={"folder": str(tmp_path), "how": how}, max_env_faults=1000)
    metrics = update_until(trainer, *(("actors/restarts", 1) if how == "exits" else ("episode/count", 10)))
    assert metrics["actors/restarts"] == (how == "exits")
    assert (os.getcwd(), signal.getsignal(signal.SIGTERM)) == (folder, handler)
    assert "shouting" not in capfd.readouterr().out
    if "starts_a_child" in how:
        child = int((tmp_path / "child").read_text())
        assert child in descendants(os.getpid())
        os.kill(parent(child), signal.SIGKILL)
        assert wait_until(lambda: state(child) in ("", "Z"), 20)


def test_an_actor_out_of_memory_is_replaced_and_the_log_says_so(
    make_trainer: Callable[..., ImpalaTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(RUDE, env_kwargs={"folder": str(tmp_path), "how": "hoards"})
    with caplog.at_level(logging.WARNING):
        update_until(trainer, "actors/restarts", 1)
    assert "memory: MemoryError" in caplog.text


def test_an_environment_that_cannot_be_made_is_named_before_training(make_config: MakeConfig) -> None:
    with pytest.raises(EnvError, match=r"RandomEpisodes-v1.*not registered"):
        ImpalaTrainer(make_config(RANDOM_EPISODES.replace("v0", "v1"), num_actors=1))
    with pytest.raises(EnvError, match=r"observation_space is a Box of shape \(0,\)"):
        ImpalaTrainer(make_config("tests.agents.faulty_envs:make_empty", num_actors=1))


def test_every_port_is_on_the_loopback_address_and_files_are_private_and_do_not_stay(tmp_path: Path) -> None:
    """In a process of its own: Ray reads at its import what makes it listen there alone."""
    script = (
        "import os; from agents.cluster import start_ray; from tests.agents.processes import descendants, listening; "
        "print(start_ray(1).folder, *listening([os.getpid(), *descendants(os.getpid())])); input()"
    )
    root, long = Path(__file__).parents[2], tmp_path / ("x" * 50)
    long.mkdir()
    environment = {**os.environ, "TMPDIR": str(long)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    learner = subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environment, **pipes)
    folder, *found = learner.stdout.readline().split()
    assert found
    assert set(found) <= LOOPBACK
    assert Path(folder).stat().st_mode & 0o077 == 0
    assert list(Path(folder).rglob("sockets"))
    learner.kill()
    learner.communicate()
    assert wait_until(lambda: not Path(folder).exists(), 20)
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    assert token.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("token", ["", "f" * 64], ids=["no token", "a wrong token"])
def test_a_connection_without_the_token_is_rejected(ray: Any, tmp_path: Path, token: str) -> None:
    address = ray.get_runtime_context().gcs_address
    ask = f"from ray._raylet import GcsClient; print(GcsClient(address={address!r}).internal_kv_keys(b''))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment |= {"HOME": str(tmp_path)}
    asked = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, timeout=60)
    assert asked.returncode != 0
    assert re.search("[Uu]nauthenticated|InvalidAuthToken|[Aa]uthentication", asked.stderr), asked.stderr
    assert ray.is_initialized()


def same_unrolls(one: Any, two: Any) -> None:
    for leaf in one.observation:
        torch.testing.assert_close(torch.tensor(one.observation[leaf]), torch.tensor(two.observation[leaf]))
    for name in ("reset", "last_action", "last_reward", "action", "behaviour_log_probs", "reward", "valid"):
        torch.testing.assert_close(torch.tensor(getattr(one, name)), torch.tensor(getattr(two, name)))
    for name in one.core_state:
        torch.testing.assert_close(torch.tensor(one.core_state[name]), torch.tensor(two.core_state[name]))


def test_inference_in_one_process_acts_as_each_actor_would(make_trainer: Callable[..., ImpalaTrainer]) -> None:
    # With learning rate 0 all weights are equal, so that the same seeds give the same episodes.
    fields: dict[str, Any] = {"learning_rate": 0.0, "max_in_flight": 1}
    here, there = (make_trainer(RANDOM_EPISODES, inference=where, **fields) for where in ("actor", "learner"))
    for _ in range(3):
        here.update()
        there.update()
        same_unrolls(here.actors.next_unroll(), there.actors.next_unroll())


def test_with_the_inference_process_all_actors_are_replaced(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ActorPool(make_config(RANDOM_EPISODES, num_actors=2, inference="learner"))
    monkeypatch.setattr(pool.ray, "kill", lambda handle: None)
    monkeypatch.setattr(pool, "publish", lambda weights, version: None)
    pool._restart_server(RuntimeError("gone"))
    assert [(slot.handle, slot.incarnation) for slot in pool.slots] == [(None, 1), (None, 1)]


def test_a_dead_inference_process_is_replaced(make_trainer: Callable[..., ImpalaTrainer]) -> None:
    trainer = make_trainer(RANDOM_EPISODES, inference="learner")
    update_until(trainer, "episode/count", 1)
    (pid,) = (p for p in descendants(os.getpid()) if command_line(p).startswith(b"ray::InferenceServer"))
    os.kill(pid, signal.SIGKILL)
    update_until(trainer, "actors/inference_restarts", 1)
    for _ in range(4):
        trainer.update()
    assert trainer.actors.next_unroll().incarnation >= 1
