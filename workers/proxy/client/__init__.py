"""HTTP/1.1 and HTTP/2 requests to upstreams, in Python: for the portable engine, probes, authentication and export."""

from workers.proxy.client.answers import Attempt, AttemptFailed, ResponseBody, UpstreamResponse
from workers.proxy.client.client import Client
from workers.proxy.client.fetch import Fetched, Resolver, fetch

__all__ = ["Attempt", "AttemptFailed", "Client", "Fetched", "Resolver", "ResponseBody", "UpstreamResponse", "fetch"]
