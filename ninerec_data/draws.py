"""Randomness as a function: one vectorised counter hash of (seed, stream, epoch, index, slot) (DESIGN 5).

No generator has a state, so a draw never depends on who made the draws before it: workers, ranks,
chunks and resumed runs all see the same numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bits", "integers", "permutation"]

_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer: a bijection of 64 bits that passes avalanche tests."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_ODD[1])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_ODD[2])
    return x ^ (x >> np.uint64(31))


def bits(*key: ArrayLike) -> NDArray[np.uint64]:
    """Hash broadcast integer keys to uint64, shape = the broadcast shape of the keys."""
    plain: list[int] = []
    for part in key:
        if not isinstance(part, int):
            break
        plain.append(part)
    return _hashed(_begun(*plain), *key[len(plain) :])


@lru_cache(maxsize=256)
def _begun(*key: int) -> NDArray[np.uint64]:
    """Draws of one batch begin alike, and numpy takes as long for one number as for hundreds."""
    return _hashed(np.zeros((), np.uint64), *key)


def _hashed(state: NDArray[np.uint64], *key: ArrayLike) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        for part in key:
            word = np.asarray(part).astype(np.int64).view(np.uint64)
            state = _mix((state ^ word) + np.uint64(_ODD[0]))
        return state


def integers(high: ArrayLike, *key: ArrayLike) -> NDArray[np.int64]:
    """Uniform integers in [0, high): the top 53 bits scaled, bias below high / 2**53."""
    unit = (bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (unit * np.asarray(high, np.float64)).astype(np.int64)


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1: the order of the hashes (ties, of odds n**2 / 2**65, by index)."""
    return np.argsort(bits(*key, np.arange(n)), kind="stable")
