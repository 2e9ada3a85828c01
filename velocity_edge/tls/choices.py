"""What the server chooses from a ClientHello: suite, group (or HelloRetryRequest), ALPN, resumption.

Pure: policy and message in, a choice or an `Alert` out; no randomness, no clock (the wall time is passed in). The
order of the checks is the order in which RFC 8446 names them, so that a client gets the alert of the first error. The
messages that follow from a choice are handshake.py's; the certificate chain is chosen in chains.py.

QUIC makes ALPN and transport parameters mandatory and forbids legacy_session_id (RFC 9001 sections 8.1, 8.2 and 8.4).
Elsewhere ALPN is optional, transport parameters are forbidden, and the session id is echoed.

The server chooses the group, not the client's first share: a post-quantum share that is there wins; a client that
supports a post-quantum group but sent only classical shares gets a HelloRetryRequest, which costs a round trip.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from velocity_edge.tls import codec
from velocity_edge.tls.alerts import (
    Alert,
    AlertDescription,
    decode_error,
    handshake_failure,
    illegal_parameter,
    missing_extension,
)
from velocity_edge.tls.client_hello import ClientHello
from velocity_edge.tls.kex import Group
from velocity_edge.tls.schedule import KeySchedule, Suite

if TYPE_CHECKING:
    from velocity_edge.tls.policy import ServerPolicy
    from velocity_edge.tls.tickets import TicketState

#: Identities of one ClientHello that are tried: each costs an AEAD.
MAX_PSK_IDENTITIES = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """What was agreed. `share` is None when the client must be asked for one (HelloRetryRequest)."""

    suite: Suite
    group: Group
    share: bytes | None
    #: Empty: none was agreed, which is possible without QUIC only.
    alpn: bytes


@dataclass(frozen=True, slots=True)
class Resumption:
    """An accepted ticket: the schedule already holds its secret and the ClientHello."""

    index: int
    schedule: KeySchedule
    ticket: TicketState
    early_data: bool


def choose(policy: ServerPolicy, hello: ClientHello, retried_with: Choice | None = None, *, quic: bool) -> Choice:
    """Check a ClientHello. *retried_with* is the choice from the first one, when this is the second."""
    if codec.TLS_1_3 not in hello.versions:
        raise Alert(AlertDescription.PROTOCOL_VERSION, "the client does not offer TLS 1.3")
    if hello.compression_methods != b"\0":
        raise illegal_parameter("a compression method is offered")
    if quic and hello.session_id:
        raise illegal_parameter("legacy_session_id is not empty (RFC 9001 section 8.4)")
    suite = _suite(policy, hello)
    alpn = _alpn(policy, hello, quic)
    if hello.groups is None or hello.key_shares is None:
        raise missing_extension("supported_groups or key_share")
    if quic and codec.EXT_QUIC_PARAMETERS not in hello.extensions:
        raise missing_extension("QUIC transport parameters")
    if not quic and codec.EXT_QUIC_PARAMETERS in hello.extensions:
        raise Alert(AlertDescription.UNSUPPORTED_EXTENSION, "QUIC transport parameters without QUIC")
    if retried_with is None:
        group = _group(policy, hello.groups, hello.key_shares)
        return Choice(suite, group, hello.key_shares.get(group.id), alpn)
    if suite is not retried_with.suite or alpn != retried_with.alpn:
        raise illegal_parameter("the second ClientHello leads to another choice")
    if list(hello.key_shares) != [retried_with.group.id]:
        raise illegal_parameter("the second ClientHello does not have exactly the requested share")
    if hello.early_data:
        raise illegal_parameter("early data after a HelloRetryRequest")
    return Choice(suite, retried_with.group, hello.key_shares[retried_with.group.id], alpn)


def check_unchanged(first: ClientHello, second: ClientHello) -> None:
    """Refuse a second ClientHello that is not the first with another key share (RFC 8446 section 4.1.2)."""
    for name in ("random", "cipher_suites", "versions", "groups", "signature_schemes", "server_name", "alpn"):
        if getattr(first, name) != getattr(second, name):
            raise illegal_parameter(f"the second ClientHello has another {name}")


def _suite(policy: ServerPolicy, hello: ClientHello) -> Suite:
    offered = hello.cipher_suites
    for suite in policy.suites:
        if suite.id in offered:
            return suite
    raise handshake_failure("no common cipher suite")


def _alpn(policy: ServerPolicy, hello: ClientHello, quic: bool) -> bytes:
    if hello.alpn is None and not quic:
        return b""
    for alpn in policy.alpn:
        if hello.alpn is not None and alpn in hello.alpn:
            return alpn
    raise Alert(AlertDescription.NO_APPLICATION_PROTOCOL, "no common application protocol")


def _group(policy: ServerPolicy, supported: tuple[int, ...], shares: dict[int, bytes]) -> Group:
    for share in shares:
        if share not in supported:
            raise illegal_parameter(f"a key share for group 0x{share:04x} that is not in supported_groups")
    common = [group for group in policy.groups if group.id in supported]
    if not common:
        raise handshake_failure("no common group")
    best_share = next((group for group in common if group.id in shares), None)
    best = common[0]
    if best_share is None:
        return best
    worth_a_round_trip = policy.retry_for_pq and best.post_quantum and not best_share.post_quantum
    return best if worth_a_round_trip else best_share


def resume(
    policy: ServerPolicy, hello: ClientHello, choice: Choice, prefix: bytes, now_s: float, *, quic: bool
) -> Resumption | None:
    """Return the first acceptable ticket of *hello*, or None for a full handshake.

    *prefix* is the transcript before this hello (message_hash and HelloRetryRequest). A ticket that no key opens is not
    an error; one that opens but whose binder is wrong is an attack or a defective client, and is fatal.
    """
    if not hello.psk_identities:
        return None
    if not hello.psk_modes:
        raise missing_extension("psk_key_exchange_modes")
    if policy.tickets is None or codec.PSK_DHE_KE not in hello.psk_modes:
        return None
    # A record layer ends early data by EndOfEarlyData (RFC 8446 section 4.5), which is not implemented.
    may_be_early = quic and hello.early_data and not prefix
    for index, (identity, obfuscated_age_ms) in enumerate(hello.psk_identities[:MAX_PSK_IDENTITIES]):
        ticket = policy.tickets.open(identity, now_s)
        if ticket is None or ticket.suite_id != choice.suite.id or ticket.server_name != (hello.server_name or ""):
            continue
        schedule = KeySchedule(choice.suite, ticket.secret)
        binder_key = schedule.binder_key()
        schedule.add(prefix + hello.message[: hello.binders_at])
        if not hmac.compare_digest(schedule.finished(binder_key), hello.psk_binders[index]):
            raise Alert(AlertDescription.DECRYPT_ERROR, "a PSK binder does not verify")
        schedule.add(hello.message[hello.binders_at :])
        early = (
            may_be_early
            and index == 0
            and policy.early_data is not None
            and ticket.alpn == choice.alpn
            and policy.early_data.accepts(ticket, obfuscated_age_ms, now_s)
        )
        return Resumption(index, schedule, ticket, early)
    return None


def check_finished(expected: bytes, message: bytes) -> None:
    """Compare the client's Finished with the expected one."""
    if len(message) != 4 + len(expected):
        raise decode_error("Finished has another length than the hash")
    if not hmac.compare_digest(message[4:], expected):
        raise Alert(AlertDescription.DECRYPT_ERROR, "Finished does not verify")
