"""Settings that every test shares."""

import signal

import pytest
from hypothesis import HealthCheck, settings

LONGEST = ("test_train_faults.py", "test_laws.py", "test_actor_pool.py", "test_rllib.py", "test_cluster.py")
"""Files that take the longest, those that wait for processes beside those that compute."""

# A suite that a shell or nohup started in the background ignores some signals, and so would every process it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

slow_is_fine = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=20, derandomize=True, **slow_is_fine)
settings.register_profile("thorough", max_examples=200, **slow_is_fine)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare torch, but not in the process that only hands tests out to workers."""
    if config.getoption("dist", "no") != "no":
        return
    import torch
    import torch._dynamo  # as torch's optimizers do, and with it Triton, whose late import beside all else crashed

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is one worker's: begun last, a long one would keep the others waiting."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))
