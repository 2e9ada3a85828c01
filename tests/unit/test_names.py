"""Names in docstrings, comments and documents exist in the tree: files, classes, functions, fields, keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import named

#: Foreign names: of the kernel, of RFCs and other standards, of other programs.
OTHERS = {
    # RFC 8446, RFC 9000, FIPS 204
    *("ClientHellos", "EndOfEarlyData", "HkdfLabel", "KeyUpdate", "PskBinderEntry", "SignatureScheme"),
    *("Power2Round", "RejBoundedPoly", "SimpleBitPack"),
    # the kernel and libc: headers, helpers, commands of bpf(2)
    *("asm-generic/socket.h", "linux/capability.h", "linux/netdev.h", "linux/openat2.h", "linux/udp.h", "sysexits.h"),
    *("helpers.h", "BPF_PROG_TEST_RUN", "bpf_sk_select_reuseport"),
    # systemd, Kubernetes, BIRD
    *("FileDescriptorStorePreserve", "MemoryHigh", "ConfigMap", "check_cmd", "check_fail", "check_interval"),
    # browsers and WebAssembly
    *("DevTools", "JavaScript", "WebAssembly", "WebSocket"),
    # tracing and logging of others
    *("OpenTelemetry", "RUST_LOG"),
    # ngtcp2 and aioquic
    *("lib/ngtcp2_conn.c", "HyStart", "RangeSet", "tls.Context"),
    # groups of entry points (docs/plugins.md)
    *("velocity_edge.handlers", "velocity_edge.middleware"),
    # parts of names, and fields of a layout that the same docstring draws
    *("_total", "since_ms"),
    # what the changes described in CONTRIBUTING.md add
    *("tests/unit/workers/middleware/test_networks.py", "workers/middleware/networks.py", "AllowNetworks"),
    "velocity_edge/config/middlewares/networks.py",
}


@pytest.fixture(scope="module", autouse=True)
def _parsed_files() -> Iterator[None]:
    yield
    named.forget()


def test_names_in_prose_exist() -> None:
    found = [f"{place}: {name}" for place, name in named.missing() if name not in OTHERS]
    assert not found, "\n".join(["named, but not in the tree:", *found])


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("Node.handle", True),
        ("WorkerIds.vanish", False),
        ("server.limits.max_request_body", True),
        ("server.limits.max_nothing", False),
        ("os.urandom", True),
        ("os.vanish", False),
        ("lifecycle.NODE_TABLE", True),
        ("lifecycle.vanish", False),
        ("velocity_edge.cli.status", True),
        ("velocity_edge.cli.vanished", False),
        ("Vanished", False),
        ("use_vanished", False),
    ],
)
def test_a_name_is_looked_for_where_it_belongs(name: str, exists: bool) -> None:
    assert named.name_exists(name) is exists


@pytest.mark.parametrize(
    ("name", "near", "exists"),
    [
        ("node.py", "", True),
        ("node/node.py", "", True),
        ("od.py", "", False),
        ("docs/vanished.md", "", False),
        ("../README.md", "docs/keys.md", True),
    ],
)
def test_a_file_is_found_by_the_end_of_its_path_or_from_the_folder_that_names_it(
    name: str, near: str, exists: bool
) -> None:
    assert named.file_exists(name, near) is exists
