"""The keys of an epoch table in the form that an engine takes.

Short because it is the one place that knows both sides: keys/ imports no engine, and the seam imports no keys.
"""

from __future__ import annotations

from velocity_edge.keys.ring import cid_configs, reset_keys
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic.datagrams import EngineKeys


def engine_keys(table: EpochTable) -> EngineKeys:
    """Return the keys of connection IDs and stateless resets that an engine needs."""
    return EngineKeys(cid_configs=cid_configs(table), reset_keys=reset_keys(table))
