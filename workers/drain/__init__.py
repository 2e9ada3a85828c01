"""Draining connections and moving them to new keys: the plans are pure, the runs act on the engine."""
