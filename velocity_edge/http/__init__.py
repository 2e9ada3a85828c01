"""HTTP apart from its carrier: what carriers of requests implement (requests.py), well-formed requests (message.py)."""
