"""Middleware, which wraps handlers."""
