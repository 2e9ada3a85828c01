"""Certificates and private keys: self-signed ones, files, fingerprints."""
