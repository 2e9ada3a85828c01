"""Middleware that establishes who the client is: OpenID Connect, bearer tokens, passwords, another server."""
