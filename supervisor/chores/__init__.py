"""Recurring work of a node: reloads, upgrades, key rotation, watching files, signals."""
