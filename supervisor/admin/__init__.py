"""The admin API of a node: its operations, the status document, the audit log, and the metrics listener."""
