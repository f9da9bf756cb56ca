"""Title tokens: made once per tokenizer and kept beside the dataset (tokens/<hash8>.parquet)."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from ninerec_data import Dataset, MissingData
from ninerec_data.files import atomic_write, hash_of

__all__ = ["Titles", "load_tokenizer", "title_tokens"]

PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")
UNKNOWN_TOKENS = ("[UNK]", "<unk>", *PAD_TOKENS)
RECIPE = 2  # raised when the same inputs would give other tokens
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

log = logging.getLogger(__name__)


class Titles:
    """Token ids of all items as one flat array.

    flat: (sum of lengths,) int32; start: (n_items + 2,) int64, item i owns flat[start[i]:start[i+1]];
    pad_id: the tokenizer's padding id.
    """

    def __init__(self, flat: NDArray[np.int32], start: NDArray[np.int64], pad_id: int) -> None:
        self.flat, self.start, self.pad_id = flat, start, pad_id

    def of(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens (U, N) and their mask, N = the longest title among `items`."""
        start, end = self.start[items], self.start[items + 1]
        longest = int((end - start).max(initial=1))
        index = start[:, None] + np.arange(longest)
        mask = index < end[:, None]
        tokens = np.where(mask, self.flat[np.where(mask, index, 0)], self.pad_id)
        return tokens.astype(np.int64), mask


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`, or a BERT `vocab.txt`, from a folder or as the file itself."""
    folder = path if path.is_dir() else path.parent
    whole, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if path.is_file() and path.suffix == ".json":
        whole = path
    if whole.is_file():
        return Tokenizer.from_file(str(whole))
    if vocabulary.is_file():
        built: Tokenizer = BertWordPieceTokenizer(str(vocabulary))._tokenizer
        return built
    msg = (
        f"no tokenizer under {path}: expected tokenizer.json or vocab.txt; "
        "give the model's folder with --text-model PATH"
    )
    raise MissingData(msg)


def title_tokens(ds: Dataset, tokenizer: Tokenizer, *, language: str, max_tokens: int) -> Titles:
    """Tokens of every item's lower-cased text, at most `max_tokens` with the special ones.

    Lower case and 30 tokens are what the papers' code feeds its encoders (PAPERS_AND_CODE 2.5).
    Every item has at least one token: the unknown one where the tokenizer gives none for an empty text.
    The result is cached under the prepared dataset, where that can be written; equal inputs give equal bytes.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    described = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    items = ds.fingerprint["items.parquet"]
    key = hash_of([RECIPE, described, language, max_tokens, items])
    cache = ds.folder / "tokens" / f"{key}.parquet"
    if cache.exists():
        ids = pq.read_table(cache)["tokens"].combine_chunks()
    else:
        texts = [""] + [text.lower() for text in ds.text(language)]
        unknown = [_id_of(tokenizer, UNKNOWN_TOKENS)]
        encoded = [encoding.ids or unknown for encoding in tokenizer.encode_batch(texts)]
        encoded[0] = []
        ids = pa.array(encoded, pa.list_(pa.int32()))
        _write(cache, ids)
    pad = _id_of(tokenizer, PAD_TOKENS)
    return Titles(ids.values.to_numpy(), ids.offsets.to_numpy().astype(np.int64), pad)


def _id_of(tokenizer: Tokenizer, names: tuple[str, ...]) -> int:
    """The id of the first of these tokens that there is, else 0."""
    return next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), 0)


def _write(cache: Path, ids: pa.Array) -> None:
    table = pa.table({"item": pa.array(range(len(ids)), pa.int32()), "tokens": ids})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    try:
        atomic_write(cache, buffer.getvalue())
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        log.info("%s cannot be written: tokens are made anew each time", cache.parent)
