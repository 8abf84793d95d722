"""A synchronous vector of environments with exact episode boundaries, explicit seeds and exact restart.

Each row stands at an ENTRY: the observation to act on next, whether it starts an episode, and the action and
reward that led to it. A terminated episode is reset at once. A truncated episode first shows its final
observation as a BOOTSTRAP entry, so that a learner can value it with the memory that led to it; the step
after that only resets the row and is marked not valid.

    episode ends by     next entry                                            transition
    (goes on)           observation, reset=False, last action and reward      reward
    termination         first observation of the next episode, reset=True     reward, terminated
    truncation          final observation, reset=False, last action, reward   reward, truncated
    then                first observation of the next episode, reset=True     not valid: reward 0, no flag set
    environment fault   first observation of the next episode, reset=True     not valid: reward 0, no flag set
An episode that is both terminated and truncated counts as terminated. An environment that faults loses its running
episode: what came before is bootstrapped at the entry it last acted on, as if a time limit had cut it there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
import torch

from envs.actions import action_dtype, action_shape, bounded_actions, checked_actions, environment_actions
from envs.advice import advice
from envs.entries import Entry, EpisodeStats, Fault, Transition
from envs.episodes import REWARD_LIMIT, Forgive, Row, checked_reward, episode_seed, episode_stats
from envs.errors import EnvError, EnvFault, traceback_of
from envs.observations import Observations
from envs.spaces import Array, check_spaces
from envs.vector_state import check_same
from training.progress import track

REPLAY_LIMIT = 100_000
"""Steps of one episode beyond which its actions are no longer kept, so that it cannot be restored."""


class EnvVector:
    """`num_envs` environments made by `make_env`, stepped one after another in this process.

    `first_row` is the index of the first row over all actors; it and `seed` decide the seed of every episode.
    Actions and Discrete or MultiDiscrete observations count from 0, see `envs.actions`; Box actions are
    clipped to their bounds.

    An environment faults if it raises, or returns what its spaces or Gymnasium do not allow. Then it alone is closed
    and made again, and its row starts the next episode. At its `max_faults`-th fault without a finished episode in
    between the row is retired: from then on it shows nothing, reset at every step and never valid.

    Raises EnvError if the spaces cannot be used, and EnvFault if an environment faults while the vector is made, if the
    last row is retired, or, with `max_faults` 0, at any fault; after that the vector can only be closed. MemoryError is
    passed on. If `lenient`, rewards may be arrays of one number, and floats slightly out of bounds are clipped.

    >>> from envs import make
    >>> vector = EnvVector(lambda: make("envs:TMaze-v0"), num_envs=2, seed=1)
    >>> vector.entry.reset
    array([ True,  True])
    >>> transition = vector.step(np.array([0, 1]))
    >>> transition.reward, vector.entry.last_action
    (array([ 0. , -0.1], dtype=float32), array([0, 1]))
    >>> vector.close()
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env[Any, Any]],
        num_envs: int,
        seed: int,
        first_row: int = 0,
        evaluation: bool = False,
        max_faults: int = 0,
        lenient: bool = False,
    ) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs is {num_envs}, expected at least 1")
        self.num_envs, self.seed, self.first_row, self.evaluation = num_envs, seed, first_row, evaluation
        self._make_env, self.max_faults = make_env, max_faults
        self._forgiven = Counter[str]()
        self._forgive: Forgive | None = (lambda what: self._forgiven.update([what])) if lenient else None
        self._envs: list[gymnasium.Env[Any, Any]] = []
        try:
            for _ in track(range(num_envs), what="making the environments", unit="environments"):
                self._envs.append(make_env())
            self._adopt_spaces()
            self._steps = [env.step for env in self._envs]
            self._rows = [Row() for _ in range(num_envs)]
            self._episodes: list[EpisodeStats] = []
            self._faults: list[Fault] = []
            self._arrays = self._observations.empty()
            for i in range(num_envs):
                self._reset(i, self._arrays)
                self._check(i, self._arrays)
            self._observations.count_from_zero(self._arrays)
            self.entry = Entry(
                self._observations.named(self._arrays),
                reset=np.ones(num_envs, np.bool_),
                last_action=np.zeros((num_envs, *self._action_shape), self._action_dtype),
                last_reward=np.zeros(num_envs, np.float32),
            )
        except BaseException:
            self.close()
            raise

    def step(self, actions: Array) -> Transition:
        """Act in every row with `actions` (B, *action shape); the arrays of `entry` are new each time."""
        actions = bounded_actions(self.action_space, checked_actions(self.action_space, actions, self.num_envs))
        moves = environment_actions(self.action_space, actions)
        log, width = actions.tobytes(), actions.nbytes // self.num_envs
        observation = self._observations.empty()
        rewards = [0.0] * self.num_envs
        terminated, truncated, reset, skipped = np.zeros((4, self.num_envs), np.bool_)
        any_reset = False
        for i, row in enumerate(self._rows):
            try:
                if row.bootstrap or self._is_retired(row):
                    skipped[i] = reset[i] = any_reset = True
                    self._reset(i, observation)
                    continue
                final, reward, ended, cut, info = self._act(i, moves[i])
                row.length += 1
                row.return_ += reward
                if row.length <= REPLAY_LIMIT:
                    row.actions += log[i * width : (i + 1) * width]
                if ended:
                    self._finish(i, info)
                    rewards[i] = reward
                    terminated[i] = reset[i] = any_reset = True
                    self._reset(i, observation)
                    continue
                self._write(i, observation, final)
                if cut:
                    self._check(i, observation)
                    self._finish(i, info)
                    truncated[i] = True
                    row.bootstrap = True
                rewards[i] = reward
            except EnvFault as fault:
                skipped[i] |= not terminated[i]
                reset[i] = any_reset = True
                self._start_over(i, observation, fault)
        while (wrong := self._observations.first_wrong(observation)) is not None:
            i, reason = wrong
            if not reset[i]:
                skipped[i] = reset[i] = any_reset = True
                rewards[i] = 0.0
            self._start_over(i, observation, self._fault(i, reason))
        batch_reward = np.array(rewards, np.float32)
        last_action, last_reward = actions.copy(), batch_reward.copy()
        if any_reset:
            last_action[reset] = 0
            last_reward[reset] = 0
        self._observations.count_from_zero(observation)
        self._arrays = observation
        self.entry = Entry(self._observations.named(observation), reset, last_action, last_reward)
        return Transition(batch_reward, terminated, truncated, ~skipped)

    def pop_episodes(self) -> list[EpisodeStats]:
        """The episodes finished since the last call."""
        episodes, self._episodes = self._episodes, []
        return episodes

    def pop_faults(self) -> list[Fault]:
        """The faults of environments since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def pop_forgiven(self) -> Counter[str]:
        """How often a lenient vector let something pass since the last call, by what it was."""
        forgiven, self._forgiven = self._forgiven, Counter()
        return forgiven

    @property
    def num_retired(self) -> int:
        """Rows that play no more."""
        return sum(self._is_retired(row) for row in self._rows)

    def advice(self) -> list[str]:
        """What the user should know of the environments, see `envs.advice`."""
        return advice(self._envs[0])

    def close(self) -> None:
        """Close every environment, whatever one of them raises."""
        for env in self._envs:
            with contextlib.suppress(Exception):
                env.close()  # type: ignore[no-untyped-call]
        self._envs, self._steps = [], []

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on exactly: plain data and tensors, fit for a weights-only load."""
        entry = self.entry
        return {
            "seed": self.seed,
            "first_row": self.first_row,
            "evaluation": self.evaluation,
            "rows": [
                {
                    "episode": row.episode,
                    "length": row.length,
                    "return": row.return_,
                    "bootstrap": row.bootstrap,
                    "faults": row.faults,
                    "actions": torch.from_numpy(self._unpacked(row.actions)),
                }
                for row in self._rows
            ],
            "observation": [torch.from_numpy(array.copy()) for array in self._arrays],
            "reset": torch.from_numpy(entry.reset.copy()),
            "last_action": torch.from_numpy(entry.last_action.copy()),
            "last_reward": torch.from_numpy(entry.last_reward.copy()),
            "episodes": [asdict(episode) for episode in self._episodes],
        }

    def load(self, state: dict[str, Any]) -> list[int]:
        """Go on from `state`: reset every row with its episode's seed, replay the episode's actions, compare.

        Returns the rows (from 0) whose environment did not come back to the same observation and return, or
        whose episode is longer than `REPLAY_LIMIT`; those start a new episode. Raises ValueError if `state`
        is of another vector.
        """
        check_same(state, self.state())
        saved = [tensor.numpy().copy() for tensor in state["observation"]]
        self.entry = Entry(
            self._observations.named(saved),
            state["reset"].numpy().copy(),
            state["last_action"].numpy().copy(),
            state["last_reward"].numpy().copy(),
        )
        self._arrays = saved
        self._episodes = [EpisodeStats(**episode) for episode in state["episodes"]]
        fresh = []
        for i, old in enumerate(state["rows"]):
            self._rows[i] = Row(episode=old["episode"] - 1, faults=old["faults"])
            if self._is_retired(self._rows[i]):
                self._rows[i].episode = old["episode"]
                continue
            with contextlib.suppress(EnvFault):
                if self._replay(i, old):
                    continue
            fresh.append(i)
            self._rows[i].episode = old["episode"]
            first = self._observations.empty()
            try:
                self._reset(i, first)
                self._check(i, first)
            except EnvFault as fault:
                self._start_over(i, first, fault)
            self._observations.count_from_zero([array[i : i + 1] for array in first])
            for array, to in zip(first, saved, strict=True):
                to[i] = array[i]
            self.entry.reset[i] = True
            self.entry.last_action[i] = 0
            self.entry.last_reward[i] = 0
        return fresh

    def _replay(self, i: int, old: dict[str, Any]) -> bool:
        """Bring row `i` to where the saved row was; False if that cannot be done exactly."""
        actions = old["actions"].numpy()
        if len(actions) != old["length"]:
            return False
        observation = self._observations.empty()
        self._reset(i, observation)
        row = self._rows[i]
        for step, move in enumerate(environment_actions(self.action_space, actions), 1):
            final, reward, ended, cut, _ = self._act(i, move)
            row.length += 1
            row.return_ += reward
            if ended or cut != (step == len(actions) and old["bootstrap"]):
                return False
            self._write(i, observation, final)
        self._check(i, observation)
        self._observations.count_from_zero([array[i : i + 1] for array in observation])
        row.bootstrap = old["bootstrap"]
        row.actions = bytearray(actions.tobytes())
        same = all(np.array_equal(a[i], b[i]) for a, b in zip(observation, self._arrays, strict=True))
        return same and row.return_ == old["return"]

    def _adopt_spaces(self) -> None:
        """Take the spaces of the first environment for all; EnvError if unusable, or if another's differ."""
        first = self._envs[0]
        check_spaces(first)
        self.observation_space, self.action_space = first.observation_space, first.action_space
        for env in self._envs[1:]:
            self._check_same_spaces(env)
        self._observations = Observations(self.observation_space, self.num_envs, self._forgive)
        self._action_shape, self._action_dtype = action_shape(self.action_space), action_dtype(self.action_space)

    def _check_same_spaces(self, env: gymnasium.Env[Any, Any]) -> None:
        for name in ("observation_space", "action_space"):
            expected, got = getattr(self, name), getattr(env, name)
            if expected != got:
                raise EnvError(f"{name} of one environment is {got}, that of another made alike {expected}")

    def _is_retired(self, row: Row) -> bool:
        return 0 < self.max_faults <= row.faults

    def _start_over(self, i: int, observation: list[Array], fault: EnvFault) -> None:
        """After a fault of row `i`: note it, make its environment again and start its next episode, or retire it."""
        if not self.max_faults:
            raise fault
        while True:
            row = self._rows[i]
            row.faults += 1
            retired = self._is_retired(row)
            self._faults.append(Fault(self.first_row + i, str(fault), traceback_of(fault), retired))
            with contextlib.suppress(Exception):
                self._envs[i].close()  # type: ignore[no-untyped-call]
            if retired and self.num_retired == self.num_envs:
                raise EnvFault(f"every environment of the vector is retired; the last: {fault}") from fault.__cause__
            try:
                if not retired:
                    self._make_again(i)
                self._reset(i, observation)
                self._check(i, observation)
                return
            except EnvFault as error:
                fault = error

    def _make_again(self, i: int) -> None:
        try:
            env = self._make_env()
            self._check_same_spaces(env)
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            raise self._fault(i, f"could not be made again: {error}") from error
        self._envs[i], self._steps[i] = env, env.step

    def _act(self, i: int, move: Any) -> tuple[Any, float, bool, bool, Any]:
        """Step environment `i`; observation, reward, terminated, truncated, info."""
        try:
            observation, reward, terminated, truncated, info = self._steps[i](move)
            terminated, truncated = bool(terminated), bool(truncated)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault(i, f"step({move!r}) raised {type(error).__name__}: {error}") from error
        if type(reward) is not float or not -REWARD_LIMIT < reward < REWARD_LIMIT:
            try:
                reward = checked_reward(reward, self._forgive)
            except ValueError as error:
                raise self._fault(i, str(error)) from None
        return observation, reward, terminated, truncated, info

    def _reset(self, i: int, observation: list[Array]) -> None:
        """Start the next episode of row `i` with its own seed; its first observation goes into the batch.

        A retired row has no episodes; its observation is always the same.
        """
        row = self._rows[i]
        if self._is_retired(row):
            self._observations.write_nothing(i, observation)
            return
        episode = row.episode + 1
        seed = episode_seed(self.seed, self.first_row + i, episode, self.evaluation)
        row = self._rows[i] = Row(episode, seed, faults=row.faults)
        try:
            first, _ = self._envs[i].reset(seed=row.seed)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault(i, f"reset raised {type(error).__name__}: {error}") from error
        self._write(i, observation, first)

    def _finish(self, i: int, info: Any) -> None:
        """Note the episode of row `i` as finished with its last `info`."""
        if not isinstance(info, dict):
            raise self._fault(i, f"info is {type(info).__name__}, expected dict")
        row = self._rows[i]
        row.faults = 0
        self._episodes.append(episode_stats(row, self.first_row + i, info))

    def _write(self, i: int, batch: list[Array], observation: Any) -> None:
        """Put the observation of environment `i` into the batch."""
        try:
            self._observations.write(i, batch, observation)
        except (ValueError, OverflowError) as error:
            raise self._fault(i, str(error)) from None

    def _check(self, i: int, batch: list[Array]) -> None:
        """EnvFault unless the written observation of row `i` is possible."""
        wrong = self._observations.first_wrong([array[i : i + 1] for array in batch])
        if wrong is not None:
            raise self._fault(i, wrong[1])

    def _unpacked(self, actions: bytearray) -> Array:
        """(T, *action shape) of the running episode's logged actions."""
        return np.frombuffer(bytes(actions), self._action_dtype).reshape(-1, *self._action_shape).copy()

    def _fault(self, i: int, what: str) -> EnvFault:
        row = self._rows[i]
        where = f"row {self.first_row + i}, episode {row.episode} (seed {row.seed}), step {row.length}"
        return EnvFault(f"environment of {where}: {what}")
