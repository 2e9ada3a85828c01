"""The worker: one process per core, unprivileged; it serves packets (docs/architecture.md)."""
