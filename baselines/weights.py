"""Weights: read from files that may be anyone's, held against the model they are for, drawn anew."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ninerec_data import CheckFailed, MissingData

__all__ = ["read_weights", "refuse_misfit", "xavier"]

SHOWN = 3  # names of each kind in a message


def xavier(layer: nn.Linear, gain: float = 1.0) -> nn.Linear:
    """The layer itself, weights Xavier normal times gain and bias 0; with gain 1 as the papers start every layer."""
    nn.init.xavier_normal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def read_weights(file: str) -> dict[str, Tensor]:
    """The tensors of a file by name: .safetensors, or else a state dict; nothing of it is run.

    Raises MissingData where there is no such file, CheckFailed where it holds something else.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        msg = f"there is no file of weights at {path}; give a .safetensors file or a state dict (.pth)"
        raise MissingData(msg)
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # what readers raise on bad bytes is not theirs to promise
        # torch advises to unpickle what it refused: not from us.
        foreign = isinstance(error, pickle.UnpicklingError)
        why = (
            "it holds more than tensors, or none" if foreign else " ".join(str(error).split())[:200]
        )
        why = why or type(error).__name__
        msg = f"{path} cannot be read as weights ({why}); give a .safetensors file or a state dict (.pth)"
        raise CheckFailed(msg) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        msg = f"{path} is no state dict: expected names and their tensors, as torch.save(model.state_dict()) writes"
        raise CheckFailed(msg)
    return state


def refuse_misfit(
    weights: str,
    *,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    another_shape: Iterable[str] = (),
    way_out: str,
) -> None:
    """CheckFailed that counts the tensors which do not fit and names the first; silent where all do."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": another_shape}
    found = []
    for kind, names in kinds.items():
        if listed := sorted(names):
            more = ", ..." if len(listed) > SHOWN else ""
            found.append(f"{len(listed)} {kind} ({', '.join(listed[:SHOWN])}{more})")
    if found:
        msg = f"{weights} do not fit: tensors {', '.join(found)}; {way_out}"
        raise CheckFailed(msg)
