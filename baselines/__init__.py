"""The papers' baselines: item encoders, user encoders, objectives, one training loop, full-catalogue evaluation.

Importing this loads torch and the loaders, no transformers. `evaluate` is not re-exported: a function
of that name here would hide the module `baselines.evaluate`.
"""

from ninerec_data.shadows import shadows

if hidden := shadows("loaders"):  # before a stranger's `loaders` is run
    raise ImportError(str(hidden[0]), name="loaders")

from baselines.config import Config, make_config
from baselines.metrics import Ranks
from baselines.model import Recommender, build_model

__all__ = ["Config", "Ranks", "Recommender", "build_model", "make_config"]
