"""velocity-edge: a post-quantum HTTP/3 edge node.

This package is what everyone agrees on (words, configuration, messages, connection IDs, keys, the PQ-QUIC stack) and
what is used without a node (the client, the probe, the command line). `supervisor/` and `workers/` are programs built
on it; `bpf/` runs in the kernel. Start reading at docs/architecture.md, then `messages.py` and `cid.py`.
"""

__version__ = "0.1.0"
