"""How clips are shared out over splits where their layout names none that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from audio.config import DataConfig
from audio.layouts import SPLITS, Source
from lm.config import SplitConfig
from training.errors import InputError


def assign_splits(config: DataConfig, sources: Sequence[Source]) -> list[str]:
    """The split of each clip, by its layout or dealt by `data.split`.

    `sources` stands for the clips that can be used, in the order of their names. Raises InputError where train or
    validation would have none, or clips that are to be dealt by speaker are not named by speaker.
    """
    dealt = [source for source in sources if source.split is None]
    if config.split_by == "speaker" and not dealt:
        raise InputError(f"data.split_by: {config.path} names its held-out clips itself; nothing is left to deal")
    nameless = [source for source in dealt if not source.speaker]
    if config.split_by == "speaker" and nameless:
        raise InputError(
            f"data.split_by: {nameless[0].path}: its name tells no speaker; expected SPEAKER/NAME, SPEAKER_NAME or "
            "SPEAKER-NAME"
        )
    groups: dict[str, list[int]] = {}
    for index, source in enumerate(dealt):
        groups.setdefault(source.speaker if config.split_by == "speaker" else str(index), []).append(index)
    # Speech Commands' list of test clips holds even where its list of validation clips is missing.
    shares = replace(config.split, test=0.0) if config.layout == "speechcommands" else config.split
    of_groups = deal([len(group) for group in groups.values()], shares)
    of_dealt = {index: split for split, group in zip(of_groups, groups.values(), strict=True) for index in group}
    remaining = iter(range(len(dealt)))
    splits = [source.split or of_dealt[next(remaining)] for source in sources]
    for split in SPLITS[:2]:
        if dealt and split not in splits:
            kind = "speaker" if config.split_by == "speaker" else "clip"
            raise InputError(
                f"{config.path}: {len(groups)} {kind}{'s' * (len(groups) != 1)} to share out leave none for {split}; "
                "expected more, or long recordings that data.clip_seconds=10 cuts into clips"
            )
    return splits


def deal(sizes: Sequence[int], split: SplitConfig) -> list[str]:
    """A split for each of some groups of `sizes` clips: shares as even over their order as whole groups allow.

    No split with a share stays empty while another has two groups.

    >>> deal([1, 1, 1, 1, 1], SplitConfig(train=0.8, validation=0.2))
    ['train', 'train', 'validation', 'train', 'train']
    """
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    total, due = sum(shares.values()), dict.fromkeys(shares, 0.0)
    chosen = []
    for size in sizes:
        for name, share in shares.items():
            due[name] += share / total * size
        name = max(due, key=lambda name: round(due[name], 9))
        due[name] -= size
        chosen.append(name)
    for name, share in shares.items():
        if share and name not in chosen:
            richest = max(shares, key=chosen.count)
            if chosen.count(richest) > 1:
                chosen[len(chosen) - 1 - chosen[::-1].index(richest)] = name
    return chosen
