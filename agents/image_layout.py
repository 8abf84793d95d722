"""Which axes of an observation are an image's height, width and channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

FEWEST_PIXELS = 3
"""On a side of an image that has an axis of channels."""
FEWEST_PIXELS_GREY = 20
"""On a side of one that has none, and might be a table of features."""
MAX_COLOURS = 4
MAX_STACKED = 16
FRAME_PIXELS = 36
"""On the shorter side of frames that were stacked up to MAX_STACKED channels."""


@dataclass(frozen=True)
class ImageLayout:
    """The axes of an image without those of a batch."""

    channels: tuple[int, ...]
    """One axis, or a stack's and its frames', or none."""
    height: int
    width: int

    def to_channels_first(self, x: Tensor) -> Tensor:
        """x: (N, *shape) -> (N, C, H, W), with a stack's axis before its frames' among the channels."""
        ordered = x.permute(0, *(1 + axis for axis in (*self.channels, self.height, self.width)))
        return ordered.flatten(1, len(self.channels)) if self.channels else ordered.unsqueeze(1)


def image_layout(shape: tuple[int, ...]) -> ImageLayout | None:
    """The layout of an observation of `shape`; None where it is no image.

    An image is (H, W), (H, W, C), (C, H, W), or a stack (S, H, W, C) or (S, C, H, W) of those.

    >>> image_layout((84, 84, 3)), image_layout((4, 84, 84))
    (ImageLayout(channels=(2,), height=0, width=1), ImageLayout(channels=(0,), height=1, width=2))
    >>> image_layout((4, 84, 84, 3)), image_layout((84, 84))
    (ImageLayout(channels=(0, 3), height=1, width=2), ImageLayout(channels=(), height=0, width=1))
    """
    match len(shape):
        case 2:
            return ImageLayout((), 0, 1) if min(shape) >= FEWEST_PIXELS_GREY else None
        case 3:
            channels = channel_axis(shape)
            height, width = (axis for axis in range(3) if axis != channels)
            return (
                ImageLayout((channels,), height, width) if min(shape[height], shape[width]) >= FEWEST_PIXELS else None
            )
        case 4:
            frame = image_layout(shape[1:])
            if frame is not None:
                (channels,) = frame.channels
                return ImageLayout((0, 1 + channels), 1 + frame.height, 1 + frame.width)
    return None


def channel_axis(shape: tuple[int, ...]) -> int:
    """0 where the first of an image's three axes holds its channels or stacked frames, else 2.

    Colours are few, images are mostly square, and so are views whose channels are many: (3, 32, 32), (7, 7, 20).
    """
    first, middle, last = shape
    if last <= MAX_COLOURS < first or first == middle:
        return 2
    if first <= MAX_COLOURS < last or middle == last:
        return 0
    return 0 if first <= MAX_STACKED and min(middle, last) >= FRAME_PIXELS else 2
