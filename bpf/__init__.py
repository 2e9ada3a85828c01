"""The packet programs and what puts them into the kernel. Imports nothing of the other packages.

`quic.h`, `maps.h`, `xdp.c`, `reuseport.c` are the programs; `abi.py` and `verdicts.py` say in Python what they say in
C; `compile.py` makes bytecode of them, `kernel.py` is bpf(2), `loader.py` puts both together, `pins.py` keeps the
result in bpffs; `classic.py` writes the program for machines without rights. Which of them a node uses is decided in
supervisor/steering/choose.py.
"""


class BpfError(Exception):
    """What a machine, a kernel or a missing right makes impossible. The text begins with "cannot"."""
