"""Text as numbers: the words of an observation, each told by two hashes."""

from __future__ import annotations

import functools
import re
import zlib

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 64
"""Words that are read of a text; what comes after them is not seen."""
BUCKETS = 4096
"""Values of a hash, of which 0 stands for no word. One alone would take a word for another too often."""
_WORD = re.compile(r"\w+|[^\w\s]")


@functools.lru_cache(maxsize=1024)
def hashed_words(text: str, length: int) -> NDArray[np.int64]:
    """(length, 2), the hashes of the first words and marks of a text, in any case of letters; 0 after its end.

    >>> hashed_words("Fetch the key", 4).shape
    (4, 2)
    >>> np.array_equal(hashed_words("Fetch the key", 4), hashed_words("fetch the  key", 4))
    True
    """
    hashes = np.zeros((length, 2), np.int64)
    for place, word in enumerate(_WORD.findall(text.lower())[:length]):
        code = zlib.crc32(word.encode(errors="surrogatepass"))  # the same in every process, as hash() is not
        hashes[place] = divmod(code % (BUCKETS - 1) ** 2, BUCKETS - 1)
        hashes[place] += 1
    hashes.flags.writeable = False
    return hashes
