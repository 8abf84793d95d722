"""Let models of speech go on from the same beginning of a held-out clip, and draw log-mel spectrograms of it all.

    python -m benchmarks.learning.continuations OUTPUT.png RUN [RUN ...] [--seconds 5] [--prompt-seconds 1] [--clip 0]
        [--temperature 0.9] [--parallel 2] [KEY=VALUE ...]

The clip is one of the validation split of the first run, as a model hears it, quantised. It is drawn above, then for
each run the prompt and what `reverie generate` writes after it, with seed 0. Each WAV file stays in its run folder,
under continuation/. KEY=VALUE overrides configurations.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matplotlib.image import imsave

from audio import waveform
from audio.config import ExperimentConfig
from audio.corpus import prepare
from audio.samples import SampleClip, log_mel_picture
from benchmarks.command_line import make_parser, split_overrides
from benchmarks.runs import printed
from reverie.experiment import load_experiment


def main() -> None:
    parser = make_parser(__doc__, parallel=2)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--prompt-seconds", type=float, default=1.0)
    parser.add_argument("--clip", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.9)
    arguments = parser.parse_intermixed_args()
    names, overrides = split_overrides(arguments.runs)
    runs = [Path(name) for name in names]
    config = load_experiment(runs[0] / "config.yaml", overrides)
    if not isinstance(config, ExperimentConfig):
        raise SystemExit(f"{runs[0]}: is not a model of audio")
    corpus = prepare(config.data)
    split = corpus.splits["validation"]
    starts = [*split.starts.tolist(), len(split.tokens)]
    codes = split.tokens[starts[arguments.clip] : starts[arguments.clip + 1]]
    real = corpus.quantiser.decode(codes) / corpus.gain
    prompt = real[: round(arguments.prompt_seconds * corpus.rate)]

    def go_on(run: Path) -> SampleClip:
        folder = run / "continuation"
        folder.mkdir(exist_ok=True)
        waveform.write(folder / "prompt.wav", prompt, corpus.rate)
        options = ["--prompt", str(folder / "prompt.wav"), "--seconds", str(arguments.seconds), "--output", str(folder)]
        options += ["--temperature", str(arguments.temperature)]
        written = json.loads(printed("-m", "reverie", "generate", str(run), *options, "--json", *overrides))
        (file,) = written["files"]
        bits = file["bits_per_sample"]
        print(f"{run.name:32} {bits:.3f} bits/sample {written['samples_per_second']:10,.0f} samples/s", flush=True)
        return SampleClip(f"{run.name}, {bits:.2f} bits a sample", waveform.read(Path(file["path"])).samples, {})

    with ThreadPoolExecutor(arguments.parallel) as pool:
        written = list(pool.map(go_on, runs))
    title = f"clip {arguments.clip} of validation; its first {arguments.prompt_seconds:g} s are the prompt below"
    rows = [[SampleClip(title, real, {})], *([clip] for clip in written)]
    imsave(arguments.output, log_mel_picture(rows, corpus.rate))


if __name__ == "__main__":
    main()
