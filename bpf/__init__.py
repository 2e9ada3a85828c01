"""The packet programs and the code that puts them into the kernel. Imports nothing from the other packages.

`quic.h`, `maps.h`, `xdp.c`, `reuseport.c` are the programs; `abi.py` and `verdicts.py` describe their maps and counters
in Python. `compile.py` compiles them (`shim.py` has the kernel headers that bcc wants); `linux.py` is bpf(2), with
`kernel.py` for maps and programs, `links.py` for attachments and pins, `measure.py` for tests; `loader.py` loads
compiled programs with their maps; `pins.py` keeps the result in bpffs, `report.py` reads it. `classic.py` generates the
program for nodes without capabilities with `assembler.py`. Which of them a node uses is decided in
supervisor/steering/choose.py.
"""


class BpfError(Exception):
    """Something that this machine, its kernel or a missing capability does not allow. The text begins with "cannot"."""
