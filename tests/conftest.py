"""Settings that every test shares."""

import torch
import torch._dynamo  # as torch's optimizers do, and with it Triton, whose late import beside all else crashed
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

slow_is_fine = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=20, derandomize=True, **slow_is_fine)
settings.register_profile("thorough", max_examples=200, **slow_is_fine)
settings.load_profile("quick")
