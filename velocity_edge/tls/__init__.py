"""TLS 1.3 with ML-KEM and ML-DSA (RFC 8446), both sides, for QUIC and for a record layer.

    transport.py       the seam to what carries a handshake; messages out of a stream
    handshake.py       the server's side; client.py the client's
    client_hello.py    the ClientHello: the step before the parser, the parser
    choices.py         what a server chooses from it; chains.py which certificate chain
    policy.py          what a server accepts; client_policy.py what a client offers
    client_checks.py   what a client accepts of a server's messages; trust.py of its certificates
    certs.py           a server's certificate chains
    codec.py           numbers, and the messages of a server; codec_client.py those of a client; vectors.py their parts
    schedule.py        the key schedule; kex.py key exchange; kem_oqs.py ML-KEM and ML-DSA by liboqs
    tickets.py         session tickets; replay.py whether early data is accepted
    alerts.py          alerts

Nothing here imports velocity_edge/quic.
"""
