"""Messages that several rooms of the baselines share."""

from __future__ import annotations

from ninerec_data import MissingData

__all__ = ["no_text_model"]


def no_text_model(model: str, weights: str) -> MissingData:
    """The one error for a text model that is neither on disk nor to be had."""
    return MissingData(
        f"the text model '{model}' is no local folder that holds it, and it could not be fetched by name. "
        "Give a local folder with --text-model PATH"
        + (
            ""
            if weights == "none"
            else ", or train from its config with random weights: --weights none"
        )
    )
