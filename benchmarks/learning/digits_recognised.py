"""Are generated clips heard as digits? A recogniser trained on real digits judges them beside controls.

    python -m reverie generate RUN --streams 200 --seconds 0.5 --output FOLDER
    python -m benchmarks.learning.digits_recognised data/digits8 FOLDER [FOLDER ...]

The recogniser is a small convolutional network on log-mel spectrograms, trained on the train and validation splits, and
on an eleventh class of what is no digit: half as many controls of each of the first two kinds, made anew every epoch.
Without that class it is surest of white noise. A clip's score is its largest probability of a digit, and it counts as
RECOGNISED if its score is above what 95 % of controls reach. Controls are no digits but have much of them:

    noise     white noise as loud as a real clip
    shuffled  a real clip with the phases of its whole spectrum drawn anew: its spectrum and length, no course in time
    pieces    a real clip cut into pieces of 50 ms in random order: its sounds, no word; never shown in training

Controls are made of test clips; half of them set the threshold, the other half are in the table, so that their shares
average about 5 %. Beside it: the mean entropy of a clip's eleven probabilities (nats), and the entropy of the digits
chosen over all recognised clips (log 10 = 2.303 if all come equally often, 0 if the model says only one).
"""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from audio import waveform
from audio.config import DataConfig
from audio.datasets import ClipDataset
from audio.waveform import Samples
from benchmarks.command_line import make_parser

RATE = 8_000
LENGTH = 4_096
"""Samples of a clip that are judged: half a second, cut or padded."""
WINDOW, HOP, MELS = 256, 80, 40
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONTROL_SHARE = 0.05
PIECE = RATE // 20


class Recogniser(nn.Module):
    """Log-mel spectrograms (N, MELS, frames) -> logits (N, 11), the last of no digit."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d((5, 6)),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 5 * 6, len(WORDS) + 1),
        )  # fmt: skip

    def forward(self, spectra: Tensor) -> Tensor:
        logits: Tensor = self.layers(spectra[:, None])
        return logits


def main() -> None:
    parser = make_parser(__doc__, seed=0)
    parser.add_argument("data", type=Path, help="digits in the layout of Speech Commands, 8 kHz")
    parser.add_argument("folders", type=Path, nargs="*", help="folders of generated .wav clips")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    generated = {folder: read(folder) for folder in arguments.folders}
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)

    train = [clip for split in ("train", "validation") for clip in labelled(arguments.data, split)]
    test = labelled(arguments.data, "test")
    recogniser = trained([x for x, _ in train], [y for _, y in train], arguments.epochs, generator)
    real = probabilities(recogniser, [x for x, _ in test])
    accuracy = float((real.argmax(1) == torch.tensor([y for _, y in test])).float().mean())
    setting = f"{len(train)} clips, {arguments.epochs} epochs, seed {arguments.seed}"
    print(f"recogniser of {setting}: test accuracy {accuracy:.1%}")

    sounds = [x for x, _ in test]
    controls = {
        make.__name__.replace("_", " "): probabilities(recogniser, [make(x, generator) for x in sounds])
        for make in (noise_like, phase_shuffled, in_pieces)
    }
    limits = score(torch.cat([control[::2] for control in controls.values()]))
    threshold = float(limits.quantile(1 - CONTROL_SHARE))
    print(f"recognised: a probability above {threshold:.4f}, which {CONTROL_SHARE:.0%} of controls reach\n")
    print(f"{'clips':<40} {'count':>6} {'recognised':>10} {'entropy':>8} {'classes':>8}")
    rows = {"real test clips": real, **{name: control[1::2] for name, control in controls.items()}}
    for folder, clips in generated.items():
        rows[str(folder)] = probabilities(recogniser, clips)
    for name, judged in rows.items():
        recognised = score(judged) > threshold
        share, entropy, classes = recognised.float().mean(), clip_entropy(judged), class_entropy(judged[recognised])
        print(f"{name:<40} {len(judged):>6} {float(share):>10.1%} {entropy:>8.3f} {classes:>8.3f}")


def labelled(data: Path, split: str) -> list[tuple[Samples, int]]:
    """The clips of a split with the digit they say."""
    clips = ClipDataset(DataConfig(str(data), "speechcommands", RATE, words=WORDS), split)
    found = []
    for index in range(len(clips)):
        sound, _, word, *_ = clips[index]
        assert isinstance(sound, Tensor)
        found.append((sound[0].numpy(), WORDS.index(str(word))))
    return found


def read(folder: Path) -> list[Samples]:
    """The generated clips of a folder."""
    clips = {path: waveform.read(path) for path in sorted(folder.glob("*.wav"))}
    if not clips:
        raise SystemExit(f"{folder}: expected a folder of .wav clips")
    for path, clip in clips.items():
        if clip.rate != RATE:
            raise SystemExit(f"{path}: has {clip.rate} samples a second, expected {RATE}")
    return [clip.samples for clip in clips.values()]


def trained(clips: list[Samples], labels: list[int], epochs: int, generator: np.random.Generator) -> Recogniser:
    """A recogniser of clips, each shown at another place and loudness in every epoch."""
    recogniser = Recogniser()
    optimizer = torch.optim.AdamW(recogniser.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        none = [
            make(clips[index], generator)
            for make in (noise_like, phase_shuffled)
            for index in generator.choice(len(clips), len(clips) // 2, replace=False)
        ]
        targets = torch.tensor(labels + [len(WORDS)] * len(none))
        spectra = spectrograms([shifted(clip, generator) for clip in clips + none])
        for batch in torch.from_numpy(generator.permutation(len(targets))).split(64):
            optimizer.zero_grad()
            F.cross_entropy(recogniser(spectra[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return recogniser.eval()


@torch.no_grad()
def probabilities(recogniser: Recogniser, clips: list[Samples]) -> Tensor:
    """(clips, 11)"""
    return recogniser(spectrograms(clips)).softmax(1)


def spectrograms(clips: list[Samples]) -> Tensor:
    """Log-mel spectrograms (clips, MELS, frames), each of mean 0 and deviation 1, so that loudness does not count."""
    waves = torch.stack([torch.from_numpy(fitted(clip)) for clip in clips])
    spectra = torch.stft(waves, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs().square()
    mel = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=MELS))
    decibels = (mel @ spectra).clamp(min=1e-8).log()
    return (decibels - decibels.mean((1, 2), keepdim=True)) / (decibels.std((1, 2), keepdim=True) + 1e-5)


def fitted(clip: Samples) -> Samples:
    """LENGTH samples: the loudest stretch of a longer clip, a shorter one in the middle of silence."""
    if len(clip) <= LENGTH:
        before = (LENGTH - len(clip)) // 2
        return np.pad(clip, (before, LENGTH - len(clip) - before))
    power = np.cumsum(np.concatenate([[0.0], np.square(clip, dtype=np.float64)]))
    start = int(np.argmax(power[LENGTH:] - power[:-LENGTH]))
    return clip[start : start + LENGTH]


def shifted(clip: Samples, generator: np.random.Generator) -> Samples:
    """A clip with silence of a random length before it, up to a tenth of a second."""
    return np.pad(clip, (int(generator.integers(RATE // 10)), 0))


def noise_like(clip: Samples, generator: np.random.Generator) -> Samples:
    """White noise of a clip's length and loudness."""
    return (generator.standard_normal(len(clip)) * np.sqrt(np.mean(np.square(clip)))).astype(np.float32)


def phase_shuffled(clip: Samples, generator: np.random.Generator) -> Samples:
    """A clip of the same magnitudes and random phases."""
    spectrum: NDArray[np.complex128] = np.fft.rfft(clip)
    phases = np.exp(2j * np.pi * generator.random(len(spectrum)))
    return np.fft.irfft(np.abs(spectrum) * phases, len(clip)).astype(np.float32)


def in_pieces(clip: Samples, generator: np.random.Generator) -> Samples:
    """The sounds of a clip in another order."""
    pieces = np.split(clip, range(PIECE, len(clip), PIECE))
    return np.concatenate([pieces[index] for index in generator.permutation(len(pieces))])


def score(judged: Tensor) -> Tensor:
    """(clips,) the largest probability of a digit."""
    return judged[:, : len(WORDS)].max(1).values


def clip_entropy(judged: Tensor) -> float:
    """Mean entropy of a clip's class probabilities, in nats."""
    return float(-(judged * judged.clamp(min=1e-12).log()).sum(1).mean())


def class_entropy(judged: Tensor) -> float:
    """Entropy of the digits chosen over all clips, in nats; at most log 10."""
    counts = torch.bincount(judged[:, : len(WORDS)].argmax(1), minlength=len(WORDS)).double()
    frequencies = counts[counts > 0] / counts.sum()
    return abs(float((frequencies * frequencies.log()).sum()))


if __name__ == "__main__":
    main()
