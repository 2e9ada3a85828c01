"""The HTTP/3 client and the probe: post-quantum key exchange, and a report of what was negotiated.

h3_client.py      connect by name, or do one exchange
h3_connection.py  one connection: requests, datagrams, timers
response.py       a response while it arrives
connection.py     aioquic's QuicConnection with our TLS, bounded windows, stateless resets
aioquic_tls.py    the TLS that takes the place of aioquic's
options.py        how to connect
facts.py          what was negotiated, and the timings
probe.py          what a server supports: groups, certificates, Retry, resumption, fallback
"""
