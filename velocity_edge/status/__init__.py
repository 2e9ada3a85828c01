"""What a node reports: the status document, Prometheus metrics, the rules by which it defends itself, the banner."""
