"""The PQ-QUIC stack: TLS 1.3 with ML-KEM and ML-DSA, and two engines behind one sans-IO seam.

Three layers, each with one owner. TLS is ours (kex, tls_server, tls_client, certs, handshake). Transport and HTTP/3
framing stand behind `engine.Engine` (portable/: aioquic; native/: ngtcp2 and nghttp3 in C). Connection IDs, tokens,
stateless resets, limits and drain are decided above the seam and are the same for both engines (demux, tokens, limits).
"""
