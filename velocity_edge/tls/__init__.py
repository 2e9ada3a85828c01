"""TLS 1.3 with ML-KEM and ML-DSA (RFC 8446): codec, key schedule, key exchange, certificates, both sides."""
