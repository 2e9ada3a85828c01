"""What this machine can give a node: the checks behind `velocity-edge doctor`, one room per subject.

They look and try (open a socket, load the packet programs, ask netlink), change nothing, and keep nothing open. What a
start tries, too, is one function for both (needs.py, cpus.py, worker_user.py, supervisor/steering/probe.py).
"""
