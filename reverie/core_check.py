"""Whether a memory core can be built from its options and fits the machine, without allocating it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.nn.modules import module as nn_module

import memory_cores
from memory_cores import MemoryCore, OptionsError
from reverie.field_messages import describe_type, describe_value, did_you_mean, number_hint
from reverie.path_interface import Batch
from reverie.paths import Experiment, path_of
from reverie.permissions import is_granted, module_of, refusal
from training.config import CoreConfig

MAX_MODULES = 5_000
MAX_TENSORS = 20_000
MAX_INTEGER = 2**40
RENAMED_OPTIONS = {"norm": "it is called block now, its value gru gtrxl, and pre trxl_i"}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_core(
    section: Mapping[str, Any], config: Experiment | None, granted: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The core's options in their declared types, and the problems of the `core` section.

    A core `module:Class` is imported if its module is `granted`, and refused if not.

    With `config`, what depends on the core is checked too: the unroll or segment length must be a multiple of the
    core's period, and the machine's memory must hold what the learner needs at least.
    """
    name = section["name"]
    module = module_of(name)
    if module is None and name not in memory_cores.names():
        hint = did_you_mean(name, memory_cores.names())
        return {}, [f"core.name: no memory core is called {name!r}; {hint}"]
    if module is not None and not is_granted(module, granted):
        return {}, [refusal("core.name", module)]
    try:
        memory_cores.core_class(name)
    except ValueError as error:
        return {}, [f"core.name: {error}"]
    given = {key: value for key, value in section.items() if key not in ("name", "d_model")}
    options, problems = _parse_options(name, given)
    d_model = section.get("d_model", CoreConfig.d_model)
    if problems or isinstance(d_model, bool) or not isinstance(d_model, int) or not 1 <= d_model <= 2**20:
        return options, problems
    try:
        with torch.device("meta"), _limit_size():
            core = memory_cores.build(name, d_model=d_model, **options)
            state = core.initial_state(1)
    except OptionsError as error:
        return options, _core_problems(name, error.problems)
    except ValueError as error:
        return options, [f"core: {error}"]
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        return options, [f"core: cannot be built with these options: {reason}"]
    if config is not None:
        batch = path_of(config).batch(config)
        problems = _period_problems(core, config, batch) + _size_problems(core, state, config, batch)
    return options, problems


def machine_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _parse_options(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    known = memory_cores.options(name)
    options: dict[str, Any] = {}
    problems = []
    for key, value in given.items():
        if key not in known:
            hint = RENAMED_OPTIONS.get(key) or did_you_mean(key, [*known, "d_model"])
            problems.append(f"core.{key}: {name} has no such option; {hint}")
            continue
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            problems.append(f"core.{key}: expected at most {MAX_INTEGER} in size, {describe_value(value)}")
            continue
        annotation = known[key].annotation
        try:
            options[key] = TypeAdapter(annotation, config=_STRICT).validate_json(json.dumps(value))
        except ValidationError:
            hint = number_hint(value, annotation)
            problems.append(f"core.{key}: expected {describe_type(annotation)}, {describe_value(value)}{hint}")
    return options, problems


def _core_problems(name: str, found: Iterable[str]) -> list[str]:
    """The problems that a core finds in its options, each with the path of its option in front."""
    known = {"d_model", *memory_cores.options(name)}
    problems = []
    for problem in found:
        word, _, rest = problem.partition(" ")
        problems.append(f"core.{word}: {rest}" if word in known else f"core: {problem}")
    return problems


@contextlib.contextmanager
def _limit_size() -> Iterator[None]:
    """Raise ValueError while a core is built once it has more layers or parameters than this machine could train."""
    limit = machine_memory()
    modules = tensors = parameter_bytes = 0

    def count_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES} modules; lower the number of layers")

    def count_parameter(parent: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, parameter_bytes
        tensors += 1
        if tensors > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} parameter tensors; lower the number of layers")
        parameter_bytes += parameter.nbytes if parameter is not None else 0
        if parameter_bytes > limit:
            raise ValueError(f"the parameters alone need more than this machine's memory of {limit / 2**30:.1f} GiB")

    hooks = [
        nn_module.register_module_module_registration_hook(count_module),
        nn_module.register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _period_problems(core: MemoryCore, config: Experiment, batch: Batch) -> list[str]:
    if batch.steps % core.period == 0:
        return []
    return [
        f"{batch.steps_field}: expected a multiple of {core.period}, the period of the {config.core.name} "
        f"core, got {batch.steps}"
    ]


def _size_problems(core: MemoryCore, state: Mapping[str, torch.Tensor], config: Experiment, batch: Batch) -> list[str]:
    """Compares a lower bound of the learner's memory with the machine's, so that a refusal is never wrong."""
    parameters = sum(parameter.nbytes for parameter in core.parameters())
    parts = {
        "parameters with gradients and optimiser": parameters * (2 + batch.moments),
        "core state of a batch": sum(tensor.nbytes for tensor in state.values()) * batch.rows,
        "one layer's activations": batch.steps * batch.rows * config.core.d_model * 4,
    }
    needed, available = sum(parts.values()), machine_memory()
    if needed <= available:
        return []
    listing = ", ".join(f"{what} {size / 2**30:.1f} GiB" for what, size in parts.items())
    return [
        f"core: the run needs at least {needed / 2**30:.1f} GiB ({listing}), this machine has "
        f"{available / 2**30:.1f} GiB; lower core.d_model, the core's memory, "
        f"{batch.rows_field} or {batch.steps_field}"
    ]
