"""PyTorch loaders over a prepared dataset, for use in anybody's research code.

import ninerec_data, loaders
ds     = ninerec_data.open_dataset("bili_food")
train  = loaders.Sequences(ds, part="train", content=("text", "image"))
loader = loaders.make_loader(train, batch_size=64, seed=0)
"""

from loaders.batch import Batch
from loaders.images import Images, decoded_bytes
from loaders.loader import Loader, make_loader
from loaders.sequences import PARTS, Sequences
from loaders.titles import load_tokenizer, title_tokens
from ninerec_data import open_dataset

__all__ = [
    "PARTS",
    "Batch",
    "Images",
    "Loader",
    "Sequences",
    "decoded_bytes",
    "load_tokenizer",
    "make_loader",
    "open_dataset",
    "title_tokens",
]
