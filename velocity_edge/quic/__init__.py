"""QUIC: admission of connections, and two engines (QUIC and HTTP/3) behind one seam.

datagrams.py is the seam for packets and time, velocity_edge/http/requests.py the one for requests; an engine
implements both: portable/ on aioquic, native/ on ngtcp2 and nghttp3 in C. open_engine.py chooses. Connection IDs,
tokens, stateless resets and limits are decided outside of the engines and are the same for both (demux.py, tokens.py,
admission.py, limits.py). TLS is in velocity_edge/tls.
"""
