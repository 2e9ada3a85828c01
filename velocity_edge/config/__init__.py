"""The configuration: the YAML file, the environment, the flags; their errors with positions; the resolved model.

`load` is what everybody calls. `model.Config` is what everybody holds: frozen, complete, no default left to guess.
"""

from velocity_edge.config.load import Loaded, load, load_with_origins
from velocity_edge.config.model import Config

__all__ = ["Config", "Loaded", "load", "load_with_origins"]
