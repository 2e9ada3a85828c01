"""Handlers, which answer requests, and what they keep between revisions."""
