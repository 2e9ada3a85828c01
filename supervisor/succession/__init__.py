"""State that outlives a supervisor, and how the next one takes it over."""
