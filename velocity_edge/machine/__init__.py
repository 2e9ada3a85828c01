"""What this machine offers a node: the checks of `velocity-edge doctor`, one file per subject.

They read and try (open a socket, load the packet programs, query netlink), change nothing, and leave nothing open.
Checks that the start of a node makes, too, are one function for both (needs.py, cpus.py, worker_user.py,
supervisor/steering/probe.py).
"""
