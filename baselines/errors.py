"""Messages that several rooms of the baselines share."""

from __future__ import annotations

from ninerec_data import MissingData

__all__ = ["no_text_model"]


def no_text_model(model: str, weights: str, why: str) -> MissingData:
    """The one error for a text model that is neither on disk nor to be had."""
    reason = why.strip().splitlines()[0] if why.strip() else "not found"
    return MissingData(
        f"the text model '{model}' is not a local folder that holds it and could not be fetched ({reason}). "
        "Give a local folder with --text-model PATH"
        + (
            ""
            if weights == "none"
            else ", or train from its config with random weights: --weights none"
        )
    )
