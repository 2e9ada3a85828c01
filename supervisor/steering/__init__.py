"""Which datagram goes to which slot: the tiers, and opening the packet programs of each."""
