"""The configuration: all that is wrong is reported at once, in plain words; what is right survives a dump."""

import dataclasses
import json
import resource
import subprocess
import sys
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.config import ExperimentConfig
from reverie.core_check import machine_memory
from reverie.experiment import ConfigError, dump, load_experiment

pytestmark = pytest.mark.usefixtures("stub_cores")

MINIMAL = """\
env: {id: reverie/TMaze-v0, kwargs: {length: 10}}
core: {name: stub, d_model: 8}
agent: {}
train: {total_steps: 1000}
run: {name: first}
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(MINIMAL)
    return path


def problems_of(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_overrides_reach_every_section(config_file):
    config = load_experiment(
        config_file,
        ["agent.learning_rate=1e-4", "core.memory_length=64", "env.kwargs.depth=3", "agent.value_cost=1",
         "agent.entropy_cost.initial=0.1", "train.seed=7", "core.kinds=[x, y]", "run.root=/tmp/some where"],
    )  # fmt: skip
    assert config.agent.learning_rate == 1e-4
    assert config.core.options == {"memory_length": 64, "kinds": ("x", "y")}
    assert config.env.kwargs == {"length": 10, "depth": 3}
    assert config.agent.value_cost == 1.0
    assert config.agent.entropy_cost.initial == 0.1
    assert load_experiment(config_file, ["env.kwargs={}"]).env.kwargs == {}


def test_every_mistake_is_reported_in_one_error(config_file):
    config_file.write_text(
        MINIMAL.replace(
            "agent: {}",
            "agent:\n  unroll_lenght: 5\n  batch_size: 0\n  learning_rate: '1e-4'\n  batch_size: 8",
        )
    )
    problems = problems_of(
        config_file, "train.total_steps=true", "core.memory_length=x", "core.memory_lenth=3", "run.name=../x",
        "nonsense", "agent.optimizer=sgd", "train.seed=1.0", "agent.discount=.nan", "agent.reward_clip=.inf",
        "foo.bar=1",
    )  # fmt: skip
    text = "\n".join(problems)
    for expected in [
        "agent.unroll_lenght (line 4): unknown key; did you mean unroll_length?",
        "agent.batch_size (line 7): repeated; it was set on line 5",
        "agent.batch_size (line 5): expected an integer >= 1 and <= 1048576, got 0 (int)",
        "agent.learning_rate (line 6): expected a finite number >= 0 or a mapping with initial, final, "
        "shape, warmup_steps, got '1e-4' (str); write the number without quotes or underscores",
        "train.total_steps: expected an integer >= 1 and <= 1000000000000, got True (bool)",
        "core.memory_length: expected an integer, got 'x' (str)",
        "core.memory_lenth: stub has no such option; did you mean memory_length?",
        "run.name: expected 1 to 100 of the characters",
        "override 'nonsense': expected section.field=value",
        "agent.optimizer: expected one of 'adam', 'rmsprop', got 'sgd' (str)",
        "train.seed: expected an integer >= 0 and < 2147483648, got 1.0 (float); write 1",
        "agent.discount: expected a finite number >= 0 and <= 1, got nan (float)",
        "agent.reward_clip: expected a finite number > 0 or null, got inf (float)",
        "foo: unknown key; known: agent, core, env, run, train",
    ]:
        assert expected in text
    assert len(problems) == 14
    assert "pydantic" not in text


def test_fields_of_a_schedule_are_named_by_their_path(config_file):
    problems = problems_of(config_file, "agent.learning_rate={final: -1, shap: cosine}")
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "agent.learning_rate.final", "agent.learning_rate.initial", "agent.learning_rate.shap",
    ]  # fmt: skip


def test_missing_and_misplaced_sections(config_file):
    config_file.write_text("env: 3\ncore: []\n")
    text = "\n".join(problems_of(config_file))
    assert "env (line 1): expected a mapping with id, kwargs, lenient, got 3 (int)" in text
    assert "agent: missing; expected a mapping" in text
    config_file.write_text("- env\n")
    assert "expected a mapping" in problems_of(config_file)[0]
    config_file.write_text("")
    assert "expected a mapping" in problems_of(config_file)[0]
    assert "cannot be read: No such file" in problems_of(config_file.parent / "absent.yaml")[0]
    assert "cannot be read" in problems_of(config_file.parent)[0]


def test_rules_across_fields_and_of_the_core(config_file):
    problems = problems_of(config_file, "agent.batch_size=17", "agent.unroll_length=6")
    assert problems[0].startswith("agent.batch_size: 17 is not a multiple of agent.envs_per_actor")
    assert problems[1].startswith("agent.unroll_length: expected a multiple of 4, the period of the stub core, got 6")
    assert problems_of(config_file, "core.memory_length=0", "core.dropout=1") == [
        "core.memory_length: must be at least 1, got 0",
        "core.dropout: must be in [0, 1), got 1.0",
    ]
    assert problems_of(config_file, "core.name=stubb") == [
        "core.name: no memory core is called 'stubb'; did you mean stub?"
    ]


@pytest.mark.parametrize(
    "override",
    ["core.d_model=1048576", "core.memory_length=1000000000000", "core.num_layers=1000000000",
     "core.memory_length=1" + "0" * 30],
)  # fmt: skip
def test_what_cannot_fit_this_machine_is_refused_before_anything_is_allocated(config_file, override):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problems = problems_of(config_file, override)
    assert problems[0].startswith("core")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < min(2**30, machine_memory() / 4)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a\nb", "a\n", "x" * 101, "аpple", ".hidden", "", "a/b", "a\0b", "..", "a b"],
)
def test_run_names_that_could_leave_the_folder_or_deceive_are_refused(config_file, name):
    problems = problems_of(config_file, f"run.name={json.dumps(name, ensure_ascii=False)}")
    assert any("run.name" in problem for problem in problems)


def scalar_fields(cls, prefix=""):
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        nested = [member for member in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(member)]
        yield prefix + name
        for member in nested:
            yield from scalar_fields(member, f"{prefix}{name}.")


FIELDS = [*scalar_fields(ExperimentConfig), "core.memory_length", "core.dropout", "core.kinds"]
EXTREMES = [
    "null",
    "''",
    "-1",
    "0",
    "1e309",
    "x",
    "[]",
    "{}",
    "true",
    "1e-4",
    "010",
    ".nan",
    "-1" + "0" * 45,
    "'1'",
]


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_in_any_field_is_accepted_or_explained(config_file, field):
    for text in EXTREMES:
        problems = outcome(config_file, f"{field}={text}")
        assert problems
        assert all(problem.strip() for problem in problems)


def outcome(path, override):
    try:
        load_experiment(path, [override])
    except ConfigError as error:
        return error.problems
    return ["accepted"]


words = st.text(st.characters(codec="utf-8"), max_size=20)
traps = st.sampled_from(["1e-4", "010", "on", "0o7", "~", "<<", "=", "-", "!x", "2020-01-01", " a", "a: b", "a #b"])
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | words | finite | traps,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | traps, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kwargs=st.dictionaries(words | traps, json_values, max_size=4),
    cost=st.floats(0, 1e30),
    seed=st.integers(0, 2**31 - 1),
    memory=st.integers(1, 1000),
)
def test_a_dumped_configuration_loads_as_the_same(config_file, kwargs, cost, seed, memory):
    config_file.write_text(MINIMAL)
    first = load_experiment(config_file, [f"train.seed={seed}", f"core.memory_length={memory}", "core.kinds=[b]"])
    first = dataclasses.replace(
        first,
        env=dataclasses.replace(first.env, kwargs=kwargs),
        agent=dataclasses.replace(first.agent, value_cost=cost),
    )
    config_file.write_text(dump(first), encoding="utf-8")
    assert load_experiment(config_file) == first


def test_a_yaml_mistake_is_found_without_importing_torch(config_file):
    config_file.write_text("a: [1\n")
    program = (
        "import sys\n"
        "from reverie.experiment import load_experiment, ConfigError\n"
        "try: load_experiment(sys.argv[1])\n"
        "except ConfigError: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, config_file], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
