"""What a server accepts: one immutable object per configuration revision, built here from the profiles.

    profile    groups                                  suites, best first            signatures, best first
    light      X25519MLKEM768, SecP256r1MLKEM768       AES-128, ChaCha20, AES-256    ML-DSA-44, -65, -87
    balanced   X25519MLKEM768, SecP256r1MLKEM768       AES-128, ChaCha20, AES-256    ML-DSA-65, -87, -44
    secure     SecP384r1MLKEM1024                      AES-256, ChaCha20             ML-DSA-87, -65, -44
    classical  x25519, secp256r1, secp384r1            AES-128, ChaCha20, AES-256    -

The default profile sets what is preferred, the permit list what else is accepted. Classical key exchange is possible
only where "classical" is permitted; it is never a default. Classical certificates depend on the chains that are
configured: no public CA issues ML-DSA certificates yet.

What is chosen by such a policy is decided in choices.py and chains.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from velocity_edge.errors import ConfigError
from velocity_edge.pki.signatures import MLDSA44, MLDSA65, MLDSA87
from velocity_edge.tls import kex, schedule
from velocity_edge.tls.certs import Chain
from velocity_edge.tls.chains import CertStore
from velocity_edge.tls.client_hello import HelloOpener, PlainHello
from velocity_edge.tls.kex import Group
from velocity_edge.tls.replay import EarlyData
from velocity_edge.tls.schedule import AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, Suite
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.transport import MAX_CLIENT_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class Profile:
    """One row of the table above."""

    groups: tuple[int, ...]
    suites: tuple[int, ...]
    signature_schemes: tuple[int, ...]


_COMMON_SUITES: Final = (AES_128_GCM, CHACHA20_POLY1305, AES_256_GCM)
PROFILES: Final[Mapping[str, Profile]] = {
    "light": Profile((kex.X25519_MLKEM768, kex.SECP256R1_MLKEM768), _COMMON_SUITES, (MLDSA44, MLDSA65, MLDSA87)),
    "balanced": Profile((kex.X25519_MLKEM768, kex.SECP256R1_MLKEM768), _COMMON_SUITES, (MLDSA65, MLDSA87, MLDSA44)),
    "secure": Profile((kex.SECP384R1_MLKEM1024,), (AES_256_GCM, CHACHA20_POLY1305), (MLDSA87, MLDSA65, MLDSA44)),
    "classical": Profile((kex.X25519, kex.SECP256R1, kex.SECP384R1), _COMMON_SUITES, ()),
}


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """What choices.py, chains.py and handshake.py work with. Sequences are in order of preference."""

    groups: tuple[Group, ...]
    suites: tuple[Suite, ...]
    certs: CertStore
    alpn: tuple[bytes, ...] = (b"h3",)
    #: Spend a round trip to get a post-quantum share from a client that supports one but did not send it.
    retry_for_pq: bool = True
    #: None: no resumption.
    tickets: Tickets | None = None
    ticket_count: int = 1
    #: None: 0-RTT is refused, and tickets do not offer it.
    early_data: EarlyData | None = None
    max_message_bytes: int = MAX_CLIENT_MESSAGE_BYTES
    #: Makes the step before the parser, one per handshake.
    hello_opener: Callable[[], HelloOpener] = PlainHello
    #: Told of each key exchange: the group, its seconds, and whether the client's share was valid.
    on_key_exchange: Callable[[Group, float, bool], None] | None = None


def server_policy(
    chains: Sequence[Chain],
    *,
    default_profile: str = "balanced",
    permit: Iterable[str] = ("light", "balanced", "secure", "classical"),
    alpn: Sequence[str] = ("h3",),
    tickets: Tickets | None = None,
    early_data: EarlyData | None = None,
    max_message_bytes: int = MAX_CLIENT_MESSAGE_BYTES,
    groups: Mapping[int, Group] = kex.GROUPS,
    suites: Mapping[int, Suite] = schedule.SUITES,
) -> ServerPolicy:
    """Build the policy of a configuration revision, or raise `ConfigError`.

    *groups* and *suites* have the implementations of ML-KEM and HMAC. Classical key exchange always comes last,
    whatever the order of *permit*. *max_message_bytes* bounds one message of a client.
    """
    names = [default_profile, *(name for name in permit if name != default_profile)]
    for name in names:
        if name not in PROFILES:
            raise ConfigError(f"cannot use profile {name!r}: expected one of {', '.join(PROFILES)}")
    if default_profile == "classical":
        raise ConfigError("cannot make 'classical' the default profile: it can only be permitted beside another one")
    names.sort(key=lambda name: name == "classical")
    rows = [PROFILES[name] for name in names]
    return ServerPolicy(
        groups=tuple(groups[g] for g in _in_order(row.groups for row in rows)),
        suites=tuple(suites[s] for s in _in_order(row.suites for row in rows)),
        certs=CertStore(chains, PROFILES[default_profile].signature_schemes),
        alpn=tuple(name.encode("ascii") for name in alpn),
        tickets=tickets,
        early_data=early_data,
        max_message_bytes=max_message_bytes,
    )


def profile_of(group_id: int, default_profile: str, permit: Iterable[str]) -> str:
    """Return the profile that a connection with this group belongs to: the default one if that has it."""
    names = [default_profile, *(name for name in permit if name != default_profile)]
    return next((name for name in names if group_id in PROFILES[name].groups), "other")


def _in_order(lists: Iterable[Iterable[int]]) -> list[int]:
    """Concatenate, keeping the first of each."""
    return list(dict.fromkeys(item for each in lists for item in each))
