"""A trainer that learns nothing, exactly: its weights and metrics depend on every earlier update."""

import sys
import time
from pathlib import Path

import torch

from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from training.config import CoreConfig, RunConfig


def experiment(root, total_steps=1000, name="run", **train):
    defaults = {"log_interval": 3, "checkpoint_interval": 7, "keep_checkpoints": 2} | train
    return ExperimentConfig(
        EnvConfig("reverie/TMaze-v0"),
        CoreConfig("stub", 8),
        AgentConfig(),
        TrainConfig(total_steps=total_steps, **defaults),
        RunConfig(name, str(root)),
    )


class FakeTrainer:
    held_out = None

    def __init__(self, total_steps, width=4, delay=0.0):
        self.total_steps, self.width, self.delay = total_steps, width, delay
        self.step_count = self.update_count = self.skipped_in_a_row = 0
        self.generator = torch.Generator().manual_seed(1)
        self.w = torch.zeros(width)
        self.closed = False

    def update(self):
        time.sleep(self.delay)
        self.w = self.w * 0.9 + torch.randn(self.width, generator=self.generator)
        self.step_count += 10
        self.update_count += 1
        metrics = {"loss/total": float(self.w.sum()), "learner/updates": self.update_count}
        return metrics | ({"episode/return": float(self.w[0])} if self.update_count % 2 else {})

    def weights(self):
        return {"w": self.w}

    def state(self):
        return {"rng": self.generator.get_state(), "steps": self.step_count, "updates": self.update_count}

    def fingerprint(self):
        return {"core": {"name": "fake", "width": self.width}}

    def load(self, weights, state):
        self.w = weights["w"]
        self.generator.set_state(state["rng"])
        self.step_count, self.update_count = state["steps"], state["updates"]
        return ["environment row 3 did not replay exactly"]

    def close(self):
        self.closed = True


if __name__ == "__main__":
    from reverie import train
    from reverie.run_folder import open_run

    config = experiment(Path(sys.argv[1]), total_steps=10**9)
    with open_run(config, resume="--resume" in sys.argv) as folder:
        sys.exit(train.run(config, FakeTrainer(10**9, delay=0.01), folder))
