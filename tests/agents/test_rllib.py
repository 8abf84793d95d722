"""Memory cores in RLlib: what an env runner acts with is what the learner trains, and little is sent."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import memory_cores
from agents.cluster import start_ray
from tests.agents.conftest import SMALL_CORES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.connectors.env_to_module import PrevActionsPrevRewards
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.core.columns import Columns
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from agents.rllib import PLACE, START, CoreLosses, MemoryModule, SequenceStates, memory_spec

pytestmark = pytest.mark.filterwarnings("ignore")  # RLlib warns of its own deprecations

TMAZE = {"length": 2, "max_steps": 30}
ALGORITHMS = {"ppo": PPOConfig, "appo": APPOConfig, "impala": IMPALAConfig}


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """What follows may want a Ray of another size."""
    session = start_ray(1)
    yield
    session.close()


class Recall(gym.Env):
    """Say after three blank steps the bit that the first observation showed."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def __init__(self, config: Any = None) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.bit, self.time = int(self.np_random.integers(2)), 0
        return self.bit, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == 4
        return 2, (1.0 if action == self.bit else -1.0) if over else 0.0, over, False, {}


def make_config(
    core: str,
    algorithm: str = "ppo",
    env: Any = "envs:TMaze-v0",
    env_config: dict[str, Any] | None = TMAZE,
    callbacks: Any = SequenceStates,
    fragment: int = 17,
    **spec: Any,
) -> Any:
    options = {"d_model": 16, "core_options": SMALL_CORES.get(core, {}), "encoder_width": 16, "max_seq_len": 6, **spec}
    config = (
        ALGORITHMS[algorithm]()
        .environment(env, env_config=env_config or {})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=3, rollout_fragment_length=fragment)
        .learners(num_learners=0)
        .rl_module(rl_module_spec=memory_spec(core, **options))
        .debugging(seed=0)
    )
    return config.callbacks(callbacks) if callbacks else config


def make_runner(config: Any) -> SingleAgentEnvRunner:
    """An env runner whose actions depend on what its module remembers."""
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    perturb(runner.module, seed=1)
    return runner


def perturb(module: MemoryModule, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def make_learner(config: Any, runner: SingleAgentEnvRunner) -> Any:
    """A learner with the env runner's weights."""
    learner = config.build_learner(env=runner.env)
    learner.module[DEFAULT_MODULE_ID].set_state(runner.module.get_state())
    return learner


def train_batch(learner: Any, episodes: list[Any]) -> dict[str, Any]:
    """What the learner's own connectors make of episodes."""
    batch = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=None
    )
    return batch[DEFAULT_MODULE_ID]  # type: ignore[no-any-return]


def log_prob_errors(learner: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Differences of the learner's and the env runner's log-probabilities at every step that was taken."""
    module = learner.module[DEFAULT_MODULE_ID]
    with torch.no_grad():
        parameters = module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
    log_probs = module.get_train_action_dist_cls().from_logits(parameters).logp(batch[Columns.ACTIONS])
    taken = batch[Columns.LOSS_MASK].bool()
    return (log_probs - batch[Columns.ACTION_LOGP])[taken].abs()


@pytest.mark.parametrize(
    ("core", "state_every_step"), [(core, False) for core in memory_cores.names()] + [("compressive", True)]
)
def test_acting_is_learning(core: str, state_every_step: bool) -> None:
    """Episodes that end within sequences, sequences that start within episodes, samples that cut both."""
    callbacks = None if state_every_step else SequenceStates
    config = make_config(core, state_every_step=state_every_step, callbacks=callbacks)
    runner = make_runner(config)
    learner = make_learner(config, runner)
    for seed in (2, 3):
        learner.module[DEFAULT_MODULE_ID].set_state(runner.module.get_state())
        episodes = runner.sample() + runner.sample()
        steps = sum(len(episode) for episode in episodes)
        starts = [episode.t_started for episode in episodes]
        batch = train_batch(learner, episodes)
        errors = log_prob_errors(learner, batch)
        assert len(errors) == steps >= 2 * 17 * 3
        assert max(starts) > 0
        assert errors.max() < 1e-4
        perturb(runner.module, seed)  # the stream must notice
        learner.module[DEFAULT_MODULE_ID].set_state(runner.module.get_state())
        assert log_prob_errors(learner, batch).max() > 1e-2


@pytest.mark.parametrize("core", memory_cores.names())
def test_a_sequence_is_what_the_core_makes_of_it(core: str) -> None:
    module = make_module(core, spaces.Box(-1, 1, (3,)), spaces.Discrete(4))
    network, observation = module.network, torch.rand(2, 7, 3)
    batch = {Columns.OBS: observation, Columns.STATE_IN: {PLACE: np.array([START, START])}}
    batch["memory_phase"] = torch.zeros(2, 7, dtype=torch.int64)
    output = module.forward_train(batch)
    x = network.core_input(network.encoder({"observation": observation.flatten(0, 1)})).view(2, 7, -1)
    y = network.core(x, network.core.initial_state(2)).y
    torch.testing.assert_close(output[Columns.ACTION_DIST_INPUTS], network.actor_head(y))
    torch.testing.assert_close(module.compute_values(batch), module.value_head(y).squeeze(-1))


def make_module(core: str, observation_space: gym.Space, action_space: gym.Space) -> MemoryModule:
    spec = memory_spec(core, d_model=16, core_options=SMALL_CORES.get(core, {}), encoder_width=16, max_seq_len=6)
    spec.observation_space, spec.action_space = observation_space, action_space
    module = spec.build()
    assert isinstance(module, MemoryModule)
    return module


def test_states_are_sent_only_where_sequences_start() -> None:
    sizes = {}
    for state_every_step in (False, True):
        runner = make_runner(make_config("transformer_xl", state_every_step=state_every_step, fragment=60))
        episodes = runner.sample()
        places = [place for e in episodes for place in e.get_extra_model_outputs(Columns.STATE_OUT)[PLACE]]
        kept = sum(place.state is not None for place in places)
        assert kept == len(places) if state_every_step else kept <= len(places) / 6 + 3
        sizes[state_every_step] = len(pickle.dumps(episodes))
    assert 3 * sizes[False] < sizes[True]


def test_without_its_callback_the_module_says_what_is_missing() -> None:
    config = make_config("lstm", callbacks=None)
    runner = make_runner(config)
    with pytest.raises(ValueError, match="SequenceStates"):
        train_batch(make_learner(config, runner), runner.sample())


def test_a_batch_of_other_rows_needs_their_states() -> None:
    module = make_module("lstm", spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    first = {Columns.OBS: torch.rand(2, 1, 3), Columns.STATE_IN: {PLACE: np.array([START, START])}}
    places = module.forward_inference(first)[Columns.STATE_OUT][PLACE]
    second = {Columns.OBS: torch.rand(2, 1, 3), Columns.STATE_IN: {PLACE: places[::-1]}}
    with pytest.raises(ValueError, match="no state was kept"):
        module.forward_inference(second)
    module.runner_stream.keep(list(places))
    swapped = module.forward_inference(second)[Columns.ACTION_DIST_INPUTS]
    batch = {name: second[name] for name in (Columns.OBS, Columns.STATE_IN)}
    torch.testing.assert_close(swapped, module.forward_train(batch)[Columns.ACTION_DIST_INPUTS])


@pytest.mark.parametrize(
    ("observation_space", "action_space", "parameters"),
    [
        (spaces.Discrete(5, start=2), spaces.Discrete(3), 3),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.MultiDiscrete([2, 3]), 5),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), spaces.Box(-1, 1, (2,)), 4),
        (spaces.Tuple((spaces.MultiDiscrete([2, 4]), spaces.Box(-1, 1, (2, 2)))), spaces.Discrete(2), 2),
    ],
)
def test_spaces(observation_space: gym.Space, action_space: gym.Space, parameters: int) -> None:
    class Random(gym.Env):
        def __init__(self, config: Any = None) -> None:
            self.observation_space, self.action_space = observation_space, action_space

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 0.0, bool(self.np_random.random() < 0.2), False, {}

    config = make_config("lstm", env=Random, env_config={})
    runner = make_runner(config)
    learner = make_learner(config, runner)
    assert runner.module.network.actor_head.out_features == parameters
    assert log_prob_errors(learner, train_batch(learner, runner.sample())).max() < 1e-3


def test_last_action_and_reward_come_by_rllibs_connector() -> None:
    config = make_config("lstm").env_runners(
        env_to_module_connector=lambda env, spaces, device: PrevActionsPrevRewards()
    )
    runner = make_runner(config)
    assert runner.module.network.encoder.join.in_features == 4 + 3 + 1
    learner = config.build_learner(
        env=runner.env, spaces={DEFAULT_MODULE_ID: (runner.module.observation_space, runner.module.action_space)}
    )
    learner.module[DEFAULT_MODULE_ID].set_state(runner.module.get_state())
    assert log_prob_errors(learner, train_batch(learner, runner.sample())).max() < 1e-4


def test_core_losses_train_with_weight_one() -> None:
    y, weight = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    CoreLosses.apply(y, weight.square().sum()).sum().backward()
    torch.testing.assert_close(y.grad, torch.ones(3))
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


@pytest.mark.parametrize("core", memory_cores.names())
def test_one_update_moves_every_weight(core: str) -> None:
    config = make_config(core).training(train_batch_size_per_learner=51, minibatch_size=8, num_epochs=1)
    runner = make_runner(config)
    learner = make_learner(config, runner)
    before = {name: p.detach().clone() for name, p in learner.module[DEFAULT_MODULE_ID].named_parameters()}
    learner.update(
        episodes=runner.sample(), timesteps={"num_env_steps_sampled_lifetime": 51}, minibatch_size=8, num_epochs=1
    )
    for name, parameter in learner.module[DEFAULT_MODULE_ID].named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"core": "lstmm"}, "did you mean 'lstm'"),
        ({"core": "lstm", "core_options": {"layers": 2}}, "no option 'layers'"),
        ({"max_seq_len": 0}, "max_seq_len is 0"),
        ({"encoder_width": -1}, "encoder_width is -1"),
    ],
)
def test_impossible_modules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_spec(**arguments)


@pytest.mark.parametrize("action_space", [spaces.MultiBinary(3), spaces.Dict({"a": spaces.Discrete(3)})], ids=str)
def test_an_action_space_without_a_distribution_is_named(action_space: gym.Space) -> None:
    with pytest.raises(ValueError, match=r"action space .*: expected Discrete, MultiDiscrete or Box"):
        make_module("lstm", spaces.Box(-1, 1, (3,)), action_space)


def test_text_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"observation\['mission'\]: RLlib's batches hold no text"):
        make_module("lstm", spaces.Dict({"mission": spaces.Text(9)}), spaces.Discrete(2))


def test_rllibs_ppo_learns_to_remember() -> None:
    config = (
        make_config("lstm", env=Recall, env_config={}, fragment=64, max_seq_len=4)
        .env_runners(num_envs_per_env_runner=8)
        .training(
            train_batch_size_per_learner=512,
            minibatch_size=32,
            num_epochs=4,
            lr=3e-3,
            gamma=0.95,
            entropy_coeff=0.01,
            use_kl_loss=False,
            vf_clip_param=10.0,
        )
    )
    algorithm = config.build_algo()
    try:
        returns = [algorithm.train()["env_runners"]["episode_return_mean"]]
        while returns[-1] < 0.8 and len(returns) < 30:
            returns.append(algorithm.train()["env_runners"]["episode_return_mean"])
    finally:
        algorithm.stop()
    assert returns[0] < 0.5
    assert returns[-1] >= 0.8


@pytest.mark.parametrize(
    ("algorithm", "core", "runners"), [("appo", "transformer_xl", 1), ("impala", "compressive", 0)]
)
def test_asynchronous_algorithms_update(algorithm: str, core: str, runners: int) -> None:
    """With an env runner in a process of its own, and with one in this process."""
    config = make_config(core, algorithm, fragment=12).training(train_batch_size_per_learner=72, lr=1e-3)
    config = config.env_runners(num_env_runners=runners).reporting(min_time_s_per_iteration=0)
    built = config.build_algo()
    try:
        module = built.get_module()
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        result: dict[str, Any] = {}
        while "learners" not in result:
            result = built.train()
        after = built.learner_group.get_weights()[DEFAULT_MODULE_ID]
    finally:
        built.stop()
    assert all(np.isfinite(array).all() for array in after.values())
    assert any(not np.array_equal(tensor.numpy(), after[name]) for name, tensor in before.items())
