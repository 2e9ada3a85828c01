"""The supervisor: one process per node. Decisions are in pure files, hands in others (docs/architecture.md)."""
