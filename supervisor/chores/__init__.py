"""What a node does by itself: reloads, key rotation, watching files, signals."""
