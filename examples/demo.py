"""The demonstration behind `make demo`: an agent with memory and one without on the same maze, side by side.

Trains both through Ray actors, evaluates each on 200 episodes it never trained on, and draws their learning curves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AGENTS = {"with memory (GTrXL)": "demo_gtrxl", "without memory": "demo_memoryless"}
EPISODES = 200


def reverie(*arguments: str) -> str:
    """Run the command line as a user would and return what it wrote to standard output; exit where it fails."""
    command = [sys.executable, "-m", "reverie", *arguments]
    print("\n$ reverie", *arguments, flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def main() -> None:
    evaluations: dict[str, dict[str, Any]] = {}
    for label, name in AGENTS.items():
        reverie("train", f"configs/rl/{name}.yaml", "--overwrite")
        evaluations[label] = json.loads(reverie("evaluate", f"runs/{name}", "--episodes", str(EPISODES), "--json"))
    runs = [f"runs/{name}" for name in AGENTS.values()]
    picture = "runs/demo.png"
    reverie("report", *runs, "--output", picture)

    print(f"\nSuccess over {EPISODES} evaluation episodes on unseen seeds:")
    for label, evaluation in evaluations.items():
        low, high = evaluation["return_interval"]
        print(
            f"  {label:20s} {evaluation['success_rate']:.3f}   "
            f"mean return {evaluation['mean_return']:.3f} [{low:.3f}, {high:.3f}]"
        )
    print("Run folders:     ", ", ".join(runs))
    print("Learning curves: ", picture)
    print("TensorBoard:     ", ".venv/bin/tensorboard --logdir runs")


if __name__ == "__main__":
    main()
