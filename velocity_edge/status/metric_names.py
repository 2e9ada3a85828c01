"""Which counter of workers appears under which metric: tables, and `velocity_<counter>_total` for all others. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from velocity_edge.wire.counters import ADMISSION, COUNTERS, VERDICTS, WORK

#: Metric -> (help, label, label value -> counter). One quantity each.
LABELLED: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "velocity_handshake_groups": (
        "Completed handshakes by key exchange group.",
        "group",
        {
            "X25519MLKEM768": "handshakes_x25519mlkem768",
            "SecP256r1MLKEM768": "handshakes_secp256r1mlkem768",
            "SecP384r1MLKEM1024": "handshakes_secp384r1mlkem1024",
            "classical": "handshakes_classical",
        },
    ),
    "velocity_http_responses": (
        "Responses by class of status code.",
        "code",
        {f"{kind}xx": f"responses_{kind}xx" for kind in range(1, 6)},
    ),
}
#: Prefix of the counters of connections that workers closed with an error.
CLOSED: Final = "closed_"
#: What workers cut off, by cause: metric -> (help, prefix of counters.LOSSES).
CUT_OFF: Final[Mapping[str, tuple[str, str]]] = {
    "velocity_requests_lost": ("Requests in progress on connections that the node closed.", "requests_lost_"),
    "velocity_connections_cut": ("Connections that the node closed before they ended.", "connections_cut_"),
}
#: Metric -> (help, counter).
RENAMED: Final[Mapping[str, tuple[str, str]]] = {
    "velocity_handshake_requests": ("Connections that began a handshake.", "connections_opened"),
    "velocity_udp_gso_fallback": ("Batches sent as single datagrams because the kernel refused GSO.", "gso_fallbacks"),
}
#: Verdicts that also have a metric of their own, for dashboards and alerts.
FROM_VERDICTS: Final[Mapping[str, tuple[str, str]]] = {
    "velocity_misrouted_packets": ("Datagrams that reached the wrong worker and were forwarded.", "handed_over"),
    "velocity_stateless_resets_sent": ("Stateless resets sent.", "reset"),
    "velocity_retries_sent": ("Retry packets sent.", "retried"),
}

#: Handshakes that were not completed: result -> counter. Completed ones are series of workers (families.py).
NOT_COMPLETED: Final[Mapping[str, str]] = {"failed": "handshakes_failed", "timed_out": "handshakes_timed_out"}
#: Why a connection got less than it could have: of the handbook. All but `client_profile` belong to velocity/1.
DOWNGRADES: Final = (
    "client_profile",  # a classical key exchange: the client offers no other
    "client_profile_unsupported",
    "no_hybrid_cert",
    "policy_disabled",
    "maintenance_window",
)

_NAMED: Final = {counter for _, _, by_value in LABELLED.values() for counter in by_value.values()} | {
    counter for _, counter in RENAMED.values()
}
#: Counters without another name. Verdicts are in velocity_dispatch_packets_total.
PLAIN: Final = tuple(
    name for name in (*COUNTERS, *ADMISSION, *WORK) if name not in {*_NAMED, *NOT_COMPLETED.values(), *VERDICTS}
)
