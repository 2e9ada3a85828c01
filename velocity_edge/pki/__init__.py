"""Certificates: made here (self_signed) or read from files, and their fingerprints."""
