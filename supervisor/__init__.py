"""The supervisor: one process per node. The decisions are in supervisor/node (docs/architecture.md)."""
