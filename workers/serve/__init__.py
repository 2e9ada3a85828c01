"""Serving: packets in and out, requests to handlers, responses to the engine."""
