"""What an operator asks: the admin API, its operations, and the metrics listener."""
