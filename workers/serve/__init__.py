"""Serving: packets in and out, requests to handlers, answers to the engine."""
