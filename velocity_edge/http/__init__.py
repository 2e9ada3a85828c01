"""HTTP semantics that do not depend on the transport (RFC 9110, RFC 9114 section 4.3)."""
