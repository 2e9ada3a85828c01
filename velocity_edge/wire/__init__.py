"""The formats that the processes of a node share: messages, connection IDs, counters."""
