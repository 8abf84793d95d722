"""Seeds that no episode of a run has had before, also where a resume changes how many actors there are."""

from __future__ import annotations

from typing import Any

from agents.actor import first_row
from agents.config import ExperimentConfig
from training.restoring import count_in


class ActorSeeds:
    """Which seeds the actors of a run have used, in terms of `agents.actor.first_row`."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.past_rows = 0
        """Rows given out before the number of actors or of their environments was changed."""

    def state(self, incarnations: list[int]) -> dict[str, Any]:
        """What `load` needs, as entries of a checkpoint; `incarnations` are those of the actors now."""
        return {
            "incarnations": incarnations,
            "envs_per_actor": self.config.agent.envs_per_actor,
            "past_rows": self.past_rows,
            "next_row": first_row(self.config, 0, max(incarnations) + 1, self.past_rows),
        }

    def fits(self, state: dict[str, Any]) -> bool:
        """Whether there were as many actors, with as many environments, as now."""
        agent = self.config.agent
        return (len(state["incarnations"]), state["envs_per_actor"]) == (max(agent.num_actors, 1), agent.envs_per_actor)

    def load(self, state: dict[str, Any]) -> list[int]:
        """Continue from `state()`; returns the last incarnation of each actor: the next one has new seeds."""
        last: list[int] = state["incarnations"]
        if self.fits(state):
            self.past_rows = count_in(state, "past_rows")
            return last
        self.past_rows = count_in(state, "next_row")
        return [max(last)] * max(self.config.agent.num_actors, 1)
