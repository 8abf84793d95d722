"""Reports: seeds of one experiment share a curve, the figure is a real picture, broken rows do no harm."""

import json
import math
import struct

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.cli import main
from reverie.figures import write_figure
from reverie.metrics_file import training_seconds
from reverie.report import bins, figure_of, read_runs, table


def write_run(root, name, seed, core, slope, success=True, steps=200_000, env="reverie/TMaze-v0", **options):
    folder = root / name
    folder.mkdir()
    generator = np.random.default_rng(seed)
    text = "".join(f"  {key}: {value}\n" for key, value in options.items())
    (folder / "config.yaml").write_text(
        f"env: {{id: {env}}}\ncore:\n  name: {core}\n{text}train: {{seed: {seed}}}\nrun: {{name: {name}}}\n"
    )
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1000, steps + 1, 1000):
            value = 1 - math.exp(-slope * step / steps) + generator.normal(0, 0.05)
            row = {"step": step, "time": 0.0, "episode/return": value, "loss/total": None}
            if success:
                row["episode/success"] = min(max(value, 0.0), 1.0)
            file.write(json.dumps(row) + "\n")
        file.write('{"step": 5, "episode/ret')
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        *(write_run(tmp_path, f"a{seed}", seed, "lstm", 2 + seed / 3, num_layers=1) for seed in range(3)),
        *(write_run(tmp_path, f"b{seed}", seed, "transformer_xl", 6 + seed, memory_length=64) for seed in range(3)),
        write_run(tmp_path, "c", 0, "transformer_xl", 4, memory_length=16, success=False, steps=150_000),
    ]


def test_runs_that_differ_only_in_seed_and_name_form_a_group(runs):
    groups = read_runs([*runs, runs[0]])
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("lstm", 3),
        ("transformer_xl, memory_length 64", 3),
        ("transformer_xl, memory_length 16", 1),
    ]
    lines = table(groups).splitlines()
    assert lines[0].split()[:3] == ["experiment", "runs", "steps"]
    assert "150,000" in lines[3]
    assert lines[3].endswith("-")
    assert "[" in lines[1]


def test_each_task_has_a_row_of_its_own_whose_labels_do_not_tell_it(runs, tmp_path):
    other = [
        write_run(tmp_path, name, 0, core, 3, False, env="Other-v0") for name, core in (("d", "lstm"), ("e", "ltm"))
    ]
    groups = read_runs([runs[0], other[0], runs[3], other[1]])
    assert [(group.task, group.label) for group in groups] == [
        ("reverie/TMaze-v0", "lstm"),
        ("reverie/TMaze-v0", "transformer_xl"),
        ("Other-v0", "lstm"),
        ("Other-v0", "ltm"),
    ]
    rows = figure_of(groups).subfigs
    assert [row.get_suptitle() for row in rows] == ["reverie/TMaze-v0", "Other-v0"]
    assert [len(row.axes) for row in rows] == [2, 1]
    assert [line.split()[0] for line in table(groups).splitlines()] == ["task", *(group.task for group in groups)]


def test_hostile_rows_and_settings_are_drawn_or_left_out(tmp_path, capsys, monkeypatch):
    folder = write_run(tmp_path, "a", 0, "'$\\frac{x$'", 3, note='"\\e]0;x\\a"', where="'_'")
    other = write_run(tmp_path, "b", 0, "_hidden", 3, env="'$x^$'", note="1")
    rows = [f'{{"step": {10**400}, "seconds": 1}}', f'{{"step": 7, "episode/return": {10**400}}}']
    rows += ['{"step": 8, "episode/return": 1e308}', '{"step": 9, "episode/return": -1e308, "seconds": 1e400}']
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n" + "\n".join(rows) + "\n")
    assert training_seconds(folder / "metrics.jsonl") == 0
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # as a matplotlibrc in the working folder may
    assert main(["report", str(folder), str(other), "--output", str(tmp_path / "r.png")]) == 0
    monkeypatch.undo()
    printed = capsys.readouterr().out
    assert "$\\frac{x$" in printed
    assert "\x1b" not in printed
    groups = read_runs([folder])
    assert max(groups[0].runs[0].curves["episode/return"][1]) < 10
    figure = figure_of(groups)
    write_figure(figure, tmp_path / "one.png")
    (text,) = figure.subfigs[0].legends[0].get_texts() if figure.subfigs else figure.legends[0].get_texts()
    assert text.get_text() == "$\\frac{x$"
    assert not text.get_parse_math()


def test_generated_corpora_of_several_lengths_are_several_tasks(tmp_path):
    folders = []
    for length, core in ((512, "lstm"), (1024, "lstm"), (512, "infinity")):
        folder = write_run(tmp_path, f"{core}{length}", 0, core, 3)
        text = (folder / "config.yaml").read_text()
        data = f"data: {{task: sorting, length: {length}}}"
        (folder / "config.yaml").write_text(text.replace("env: {id: reverie/TMaze-v0}", data))
        folders.append(folder)
    assert [(group.task, group.label) for group in read_runs(folders)] == [
        ("sorting of 512", "lstm"),
        ("sorting of 512", "infinity"),
        ("sorting of 1024", "lstm"),
    ]


def test_the_report_is_a_picture_and_a_table(runs, tmp_path, capsys):
    output = tmp_path / "curves.png"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    raw = output.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", raw[16:24])
    assert 1000 < width < 4000
    assert 400 < height < 2000
    assert len(raw) > 20_000
    assert "transformer_xl, memory_length 64" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["absent", "no metrics", "no rows", "broken config", "unwritable output"])
def test_what_cannot_be_drawn_is_one_message(runs, tmp_path, capsys, fault):
    output = tmp_path / "x.png"
    if fault == "absent":
        runs.append(tmp_path / "absent")
    elif fault == "no metrics":
        (runs[0] / "metrics.jsonl").unlink()
    elif fault == "no rows":
        (runs[0] / "metrics.jsonl").write_bytes(b'{"step": 1}\n[]\n\xff\n{"step": "x", "episode/return": 1}\n')
    elif fault == "broken config":
        (runs[0] / "config.yaml").write_text("- a")
    else:
        output = tmp_path / "no" / "x.png"
    given = runs if fault in ("absent", "unwritable output") else runs[:1]
    assert main(["report", *map(str, given), "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("reverie report: loading\nerror: ")
    assert str(output if fault == "unwritable output" else runs[-1 if fault == "absent" else 0]) in message
    assert not output.exists()


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-5, 5)), min_size=1), st.integers(1, 20))
def test_binned_values_stay_within_those_of_the_curve_and_span_it(points, count):
    steps, values = np.array(sorted(points), dtype=float).T
    binned = bins(steps, values, np.linspace(0, steps[-1], count + 1))
    finite = binned[np.isfinite(binned)]
    assert len(binned) == count
    assert np.isfinite(binned[-1])
    assert finite.min() >= values.min() - 1e-9
    assert finite.max() <= values.max() + 1e-9


def test_a_bin_is_the_mean_of_what_falls_in_it():
    binned = bins(np.array([1.0, 2.0, 9.0]), np.array([1.0, 3.0, 5.0]), np.array([0.0, 3.0, 6.0, 10.0]))
    assert binned.tolist() == [2.0, 3.5, 5.0]


def write_audio_run(root, name, core, baselines=(7.5, 5.0), clock=True):
    folder = root / name
    folder.mkdir()
    (folder / "config.yaml").write_text(f"data: {{path: clips}}\ncore: {{name: {core}}}\nrun: {{name: {name}}}\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for update in range(1, 21):
            row = {"step": update * 1000, "time": 100.0 + update, "loss/next_token": 4 + 1 / update}
            if update % 5 == 0:
                row |= {"validation/bits_per_sample": 6 - update / 20, "baseline/unigram_bits_per_sample": baselines[0]}
                row |= {"baseline/bigram_bits_per_sample": baselines[1]}
            file.write(json.dumps(row | ({"seconds": update * 2.5} if clock else {})) + "\n")
    return folder


def texts(groups):
    figure = figure_of(groups)
    (row,) = figure.subfigs
    legend = [text.get_text() for text in row.legends[0].get_texts()]
    return [(panel.get_ylabel(), panel.get_xlabel()) for panel in figure.axes], legend, figure


def test_held_out_curves_stand_against_steps_and_against_seconds_with_their_baselines(tmp_path):
    runs = [write_audio_run(tmp_path, core, core) for core in ("lstm", "wavenet")]
    panels, legend, figure = texts(read_runs(runs))
    assert panels == [
        ("training loss (nats per token)", "tokens"),
        ("validation loss (bits per sample)", "samples"),
        ("validation loss (bits per sample)", "seconds of training"),
    ]
    assert legend == ["lstm", "wavenet", "unigram baseline 7.50", "bigram baseline 5.00"]
    for panel, last in zip(figure.axes[1:], (20_000, 50), strict=True):
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert set(lines["bigram baseline 5.00"].get_ydata()) == {5.0}
        assert lines["lstm"].get_xdata()[-1] == pytest.approx(last, rel=0.01)
        assert lines["lstm"].get_ydata()[-1] == pytest.approx(5.0)


def test_a_run_without_a_clock_has_no_curve_against_seconds_and_other_baselines_are_other_lines(tmp_path):
    runs = [write_audio_run(tmp_path, "a", "lstm", clock=False), write_audio_run(tmp_path, "b", "wavenet", (7.0, 5.0))]
    panels, legend, figure = texts(read_runs(runs))
    assert len(panels) == 3
    assert "lstm" not in {line.get_label() for line in figure.axes[2].get_lines()}
    assert legend[2:] == ["unigram baseline 7.00", "unigram baseline 7.50", "bigram baseline 5.00"]
    alone, _, _ = texts(read_runs(runs[:1]))
    assert [x for _, x in alone] == ["tokens", "samples"]
