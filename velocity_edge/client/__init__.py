"""The HTTP/3 client and the probe: post-quantum on the client's side, and it says what was really negotiated.

h3_client.py    connect, request, stream a response
probe.py        what a server speaks: groups, certificates, Retry, resumption, fallback
connection.py   aioquic's QuicConnection with our TLS, bounded windows, stateless resets
facts.py        what a connection turned out to be, in names people know
"""
