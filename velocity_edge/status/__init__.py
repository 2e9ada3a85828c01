"""What a node says of itself: the status document, its Prometheus metrics, and the rules of its defence."""
