"""Many slices of a flat array as one index: no loop over users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rows_of"]


def rows_of(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges [start, end); a range that ends before it starts is empty."""
    lengths = np.maximum(end - start, 0)
    offsets = np.cumsum(lengths) - lengths
    rows: NDArray[np.int64] = np.repeat(start - offsets, lengths)
    rows += np.arange(len(rows))
    return rows
