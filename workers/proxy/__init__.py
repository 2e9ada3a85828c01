"""Proxies: which upstream answers a request, how it is reached, and what becomes of its answer."""
