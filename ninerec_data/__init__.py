"""The data half of ninerec: catalog, raw store, raw formats, preparation, the prepared dataset.

Importing this loads no torch, no polars, no pyarrow, opens no socket and touches no disk.
"""

from ninerec_data.dataset import Dataset, open_dataset
from ninerec_data.errors import (
    CheckFailed,
    MissingData,
    NetworkError,
    NineRecError,
    TermsError,
    UsageError,
)
from ninerec_data.home import Home, find_home
from ninerec_data.protocol import PROTOCOLS, Protocol, Split, get_protocol

__all__ = [
    "PROTOCOLS",
    "CheckFailed",
    "Dataset",
    "Home",
    "MissingData",
    "NetworkError",
    "NineRecError",
    "Protocol",
    "Split",
    "TermsError",
    "UsageError",
    "find_home",
    "get_protocol",
    "open_dataset",
]
