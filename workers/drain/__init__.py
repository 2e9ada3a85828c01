"""Taking leave of connections: the plan is pure, the run acts on the engine."""
