"""What processes of a node say to one another, and the formats they share: messages, connection IDs, counters."""
