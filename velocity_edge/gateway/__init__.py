"""Gateway mode: HTTP/1.1 in, our own HTTP/3 client to a node out, for programs that speak no HTTP/3."""
