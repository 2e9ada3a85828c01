"""Certificates and private keys: self-signed ones, files, fingerprints, and the signatures that keys can make.

Nothing here imports velocity_edge/tls, which presents the chains.
"""
