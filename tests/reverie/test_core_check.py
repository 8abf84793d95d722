"""The options of every registered core are checked before it is built, whatever they are set to."""

import pytest

import memory_cores
from reverie.core_check import check_core
from reverie.experiment import ConfigError, dump, load_experiment

EXPERIMENT = """\
env: {{id: "envs:TMaze-v0"}}
core: {{name: {name}, d_model: 8}}
agent: {{unroll_length: 64}}
train: {{total_steps: 1000}}
run: {{name: first}}
"""
VALUES = [
    "null",
    "''",
    "-1",
    "0",
    "3",
    "1e309",
    "x",
    "[]",
    "{}",
    "true",
    "0.5",
    ".nan",
    "-1" + "0" * 30,
    "1000000000",
]


@pytest.fixture(params=memory_cores.names())
def core_file(request, tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT.format(name=request.param))
    return request.param, path


def outcome(path, override):
    try:
        config = load_experiment(path, [override])
    except ConfigError as error:
        return error.problems
    path.with_suffix(".again").write_text(dump(config))
    assert load_experiment(path.with_suffix(".again")) == config
    return ["accepted"]


def test_any_value_of_any_option_is_accepted_or_explained(core_file, monkeypatch):
    for limit in ("MAX_MODULES", "MAX_TENSORS"):  # building up to the limits that users have takes seconds
        monkeypatch.setattr(f"reverie.core_check.{limit}", 500)
    name, path = core_file
    for option in (*memory_cores.options(name), "d_model"):
        for value in VALUES:
            problems = outcome(path, f"core.{option}={value}")
            assert problems == ["accepted"] or all(
                problem.startswith(("core", "agent.unroll_length")) and "\n" not in problem for problem in problems
            ), (option, value, problems)


def test_defaults_are_accepted(core_file):
    name, path = core_file
    assert load_experiment(path).core.options == {}
    assert check_core({"name": name}, None) == ({}, [])
    for option, parameter in memory_cores.options(name).items():
        assert check_core({"name": name, option: parameter.default}, None) == (
            {option: parameter.default},
            [],
        )


def test_a_constructor_s_problems_are_listed_by_option(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT.format(name="transformer_xl"))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, ["core.num_layers=0", "core.memory_length=-1"])
    assert sorted(problem.split(":")[0] for problem in caught.value.problems) == [
        "core.memory_length",
        "core.num_layers",
    ]
