"""The client's side of a TLS 1.3 handshake, for our client and probe: the counterpart of handshake.py.

    state                   level      message               then
    START                   -          (start())             ClientHello -> SERVER_HELLO
    SERVER_HELLO            INITIAL    ServerHello           keys -> ENCRYPTED_EXTENSIONS
                            INITIAL    HelloRetryRequest     another ClientHello, once
    ENCRYPTED_EXTENSIONS    HANDSHAKE  EncryptedExtensions   -> CERTIFICATE, or FINISHED when resumed
    CERTIFICATE             HANDSHAKE  CertificateRequest    noted; answered with an empty Certificate
                            HANDSHAKE  Certificate           -> CERTIFICATE_VERIFY
    CERTIFICATE_VERIFY      HANDSHAKE  CertificateVerify     checked, chain trusted -> FINISHED
    FINISHED                HANDSHAKE  Finished              our Finished -> CONNECTED
    CONNECTED               ONE_RTT    NewSessionTicket      `on_session`

It reports what was negotiated: group, suite, signature scheme, chain, whether a HelloRetryRequest was needed.
The key schedule starts only at ServerHello, which says which hash it runs on; until then the hellos are kept as bytes.
What a server's message may say is checked in client_checks.py.

With `TransportParameters` the handshake is QUIC's; without, that of a record layer: no transport parameters, ALPN only
when the policy has any, no early data.

Long because it is one state machine: the table above and its handlers, in that order.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final

from cryptography import x509

from velocity_edge.tls import client_checks as checks
from velocity_edge.tls import codec, codec_client, kex, schedule
from velocity_edge.tls.alerts import (
    Alert,
    AlertDescription,
    decode_error,
    illegal_parameter,
    unexpected_message,
)
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.codec_client import Offer, ServerHello
from velocity_edge.tls.schedule import KeySchedule, Suite
from velocity_edge.tls.transport import CONTINUE, HandshakeTransport, Level, TransportParameters
from velocity_edge.tls.vectors import EXT_PRE_SHARED_KEY
from velocity_edge.tls.vectors import message as build_message

#: A server's flight with two ML-DSA-87 certificates is 22 kB, one message of it 15 kB.
MAX_SERVER_MESSAGE_BYTES: Final = 65_536


class State(Enum):
    """The states of a client's handshake."""

    START = "start"
    SERVER_HELLO = "ServerHello"
    ENCRYPTED_EXTENSIONS = "EncryptedExtensions"
    CERTIFICATE = "Certificate"
    CERTIFICATE_VERIFY = "CertificateVerify"
    FINISHED = "Finished"
    CONNECTED = "tickets"


class ClientHandshake:
    """Call `start` once, then `feed` with whole messages, also after it is `done`: tickets come later."""

    def __init__(
        self,
        policy: ClientPolicy,
        transport: HandshakeTransport,
        parameters: TransportParameters | None,
        *,
        on_session: Callable[[Session], None] = lambda session: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """*parameters*: QUIC's; None when *transport* is not QUIC."""
        self.done = False
        self.alpn = ""
        self.group = 0
        self.cipher_suite = 0
        self.signature_scheme = 0
        self.server_name = policy.server_name
        self.resumed = False
        self.early_data_accepted = False
        #: A HelloRetryRequest came.
        self.retried = False
        #: Leaf first; empty when resumed.
        self.certificates: list[x509.Certificate] = []
        self.client_random = os.urandom(32)
        self.alert_reason = ""
        self.state = State.START
        self._policy = policy
        self._transport = transport
        self._parameters = parameters
        self._on_session = on_session
        self._wall_clock = wall_clock
        self._shares: dict[int, Any] = {}
        self._offer: Offer | None = None
        self._session: Session | None = None
        #: message_hash and HelloRetryRequest, and the last ClientHello.
        self._prefix, self._hello = b"", b""
        self._psk_schedule: KeySchedule | None = None
        self._schedule: KeySchedule | None = None
        self._retry_suite: int | None = None
        self._server_secret, self._client_secret = b"", b""
        self._request_context: bytes | None = None
        self._peer_parameters = b""
        self._resumption_secret = b""

    def start(self) -> None:
        """Send the first ClientHello."""
        policy = self._policy
        now_s = self._wall_clock()
        if policy.session is not None and policy.session.usable(policy.server_name, now_s):
            self._session = policy.session
        self._offer = Offer(
            random=self.client_random,
            suites=policy.suites,
            groups=policy.groups,
            key_shares=self._make_shares(tuple(g for g in policy.shares if g in policy.groups)),
            signature_schemes=policy.signature_schemes,
            server_name=checks.sni(policy.server_name),
            alpn=policy.alpn,
            parameters=None if self._parameters is None else self._parameters.local_parameters(),
            early_data=(
                policy.early_data
                and self._parameters is not None
                and self._session is not None
                and self._session.early_data
            ),
            padding_bytes=policy.padding_bytes,
        )
        self._send_hello(now_s)

    def feed(self, level: int, message: bytes) -> int:
        """Take one whole message of this level. Return -1, or the alert to fail with."""
        try:
            if len(message) > MAX_SERVER_MESSAGE_BYTES:
                raise decode_error("message too large")
            handler = _TABLE.get((self.state, level, message[0] if message else -1))
            if handler is None:
                kind = message[0] if message else None
                raise unexpected_message(f"message {kind} at level {level} while waiting for {self.state.value}")
            handler(self, message)
        except Alert as alert:
            self.alert_reason = alert.reason
            return int(alert.description)
        return CONTINUE

    # --- hellos --------------------------------------------------------------------------------------------------

    def _make_shares(self, groups: tuple[int, ...]) -> dict[int, bytes]:
        self._shares, shares = {}, {}
        for group in groups:
            self._shares[group], shares[group] = kex.GROUPS[group].start()
        return shares

    def _send_hello(self, now_s: float) -> None:
        assert self._offer is not None
        session = self._session
        if session is None:
            self._psk_schedule = None
            hello = codec_client.client_hello(self._offer, None, 0, 0)
        else:
            suite = schedule.SUITES[session.suite_id]
            hello = codec_client.client_hello(
                self._offer, session.ticket, session.obfuscated_age_ms(now_s), suite.digest_bytes
            )
            psk = self._psk_schedule = KeySchedule(suite, session.secret)
            binder_key = psk.binder_key()
            psk.add(self._prefix + hello[: -codec_client.binders_bytes(suite.digest_bytes)])
            hello = hello[: -suite.digest_bytes] + psk.finished(binder_key)
            psk.add(hello[-codec_client.binders_bytes(suite.digest_bytes) :])
        self._hello = hello
        self._transport.send_crypto(Level.INITIAL, hello)
        if self._offer.early_data and self._psk_schedule is not None:
            suite_id = self._psk_schedule.suite.id
            self._transport.install_key(True, Level.ZERO_RTT, suite_id, self._psk_schedule.derive(b"c e traffic"))
        self.state = State.SERVER_HELLO

    def _on_server_hello(self, message: bytes) -> None:
        hello = codec_client.parse_server_hello(message)
        suite = checks.server_hello(hello, self._policy.suites, self._retry_suite)
        if hello.is_retry:
            self._on_retry(hello, suite, message)
            return
        found = hello.extensions
        if EXT_PRE_SHARED_KEY in found:
            psk = self._psk_schedule
            if psk is None or psk.suite is not suite or found[EXT_PRE_SHARED_KEY] != b"\0\0":
                raise illegal_parameter("the server resumes a session that was not offered")
            self._schedule, self.resumed = psk, True
        else:
            self._schedule = KeySchedule(suite)
            self._schedule.add(self._prefix + self._hello)
        group, share = checks.key_share(found.get(codec.EXT_KEY_SHARE))
        state = self._shares.get(group.id)
        if state is None:
            raise illegal_parameter(f"the server answers with {group.name}, of which it has no share")
        secret = group.finish(state, share)
        self.group, self.cipher_suite, self._shares = group.id, suite.id, {}
        self._schedule.add(message)
        self._schedule.mix(secret)
        self._server_secret = self._schedule.derive(b"s hs traffic")
        self._client_secret = self._schedule.derive(b"c hs traffic")
        self._transport.install_key(False, Level.HANDSHAKE, suite.id, self._server_secret)
        # RFC 9001 section 4.1.4: the write key too, Handshake packets may have to be acknowledged now.
        self._transport.install_key(True, Level.HANDSHAKE, suite.id, self._client_secret)
        self.state = State.ENCRYPTED_EXTENSIONS

    def _on_retry(self, hello: ServerHello, suite: Suite, message: bytes) -> None:
        if self.retried:
            raise unexpected_message("a second HelloRetryRequest")
        self.retried = True
        assert self._offer is not None
        found = hello.extensions
        cookie = found.get(codec.EXT_COOKIE)
        shares = self._offer.key_shares
        if codec.EXT_KEY_SHARE in found:
            group = int.from_bytes(found[codec.EXT_KEY_SHARE], "big")
            if len(found[codec.EXT_KEY_SHARE]) != 2 or group not in self._policy.groups or group in shares:
                raise illegal_parameter(f"the server asks for a share of group 0x{group:04x}")
            shares = self._make_shares((group,))
        elif cookie is None:
            raise illegal_parameter("a HelloRetryRequest without a change")
        self._retry_suite = suite.id
        self._prefix = codec.message_hash(suite.new_hash(self._hello).digest()) + message
        self._offer = replace(self._offer, key_shares=shares, cookie=cookie, early_data=False)
        # A PSK is bound to a hash: RFC 8446 section 4.1.4 drops a PSK with another one.
        if self._session is not None and schedule.SUITES[self._session.suite_id].new_hash is not suite.new_hash:
            self._session = None
        self._send_hello(self._wall_clock())

    # --- the server's flight -------------------------------------------------------------------------------------

    def _on_encrypted_extensions(self, message: bytes) -> None:
        assert self._schedule is not None
        assert self._offer is not None
        found = codec_client.parse_encrypted_extensions(message)
        agreed = checks.encrypted_extensions(
            found,
            alpn=self._policy.alpn,
            early_data=self._offer.early_data,
            resumed=self.resumed,
            quic=self._parameters is not None,
        )
        self.alpn, self.early_data_accepted = agreed.alpn, agreed.early_data
        if self._parameters is not None:
            self._peer_parameters = found[codec.EXT_QUIC_PARAMETERS]
            try:
                self._parameters.peer_parameters(self._peer_parameters)
            except ValueError as error:
                raise illegal_parameter(f"transport parameters: {error}") from None
        self._schedule.add(message)
        self.state = State.FINISHED if self.resumed else State.CERTIFICATE

    def _on_certificate_request(self, message: bytes) -> None:
        assert self._schedule is not None
        if self._request_context is not None:
            raise unexpected_message("a second CertificateRequest")
        self._request_context = codec_client.parse_certificate_request(message)
        self._schedule.add(message)

    def _on_certificate(self, message: bytes) -> None:
        assert self._schedule is not None
        try:
            self.certificates = [x509.load_der_x509_certificate(der) for der in codec_client.parse_certificate(message)]
        except ValueError as error:
            raise Alert(AlertDescription.BAD_CERTIFICATE, f"a certificate cannot be parsed: {error}") from None
        self._schedule.add(message)
        self.state = State.CERTIFICATE_VERIFY

    def _on_certificate_verify(self, message: bytes) -> None:
        assert self._schedule is not None
        scheme, signature = codec_client.parse_certificate_verify(message)
        signed = codec.SERVER_SIGNATURE_CONTEXT + self._schedule.transcript_hash
        checks.certificate_verify(self.certificates[0], scheme, signature, signed, self._policy.signature_schemes)
        self._policy.trust.check(self.certificates, self._policy.server_name)
        self.signature_scheme = scheme
        self._schedule.add(message)
        self.state = State.FINISHED

    def _on_finished(self, message: bytes) -> None:
        run, transport, suite = self._schedule, self._transport, self.cipher_suite
        assert run is not None
        if not hmac.compare_digest(message[4:], run.finished(self._server_secret)):
            raise Alert(AlertDescription.DECRYPT_ERROR, "the server's Finished does not verify")
        run.add(message)
        run.mix(None)
        transport.install_key(False, Level.ONE_RTT, suite, run.derive(b"s ap traffic"))
        write_secret = run.derive(b"c ap traffic")
        flight = b""
        if self._request_context is not None:
            context = self._request_context
            flight = build_message(codec.CERTIFICATE, bytes((len(context),)) + context + b"\0\0\0")
            run.add(flight)
        finished = codec.finished(run.finished(self._client_secret))
        run.add(finished)
        transport.send_crypto(Level.HANDSHAKE, flight + finished)
        transport.install_key(True, Level.ONE_RTT, suite, write_secret)
        self._resumption_secret = run.derive(b"res master")
        self.state = State.CONNECTED
        self.done = True

    def _on_new_session_ticket(self, message: bytes) -> None:
        ticket = codec_client.parse_new_session_ticket(message)
        if ticket.lifetime_s == 0:
            return
        suite = schedule.SUITES[self.cipher_suite]
        self._on_session(
            Session(
                ticket=ticket.ticket,
                secret=suite.expand(self._resumption_secret, b"resumption", ticket.nonce),
                suite_id=suite.id,
                age_add=ticket.age_add,
                received_s=self._wall_clock(),
                # RFC 8446 section 4.6.1: a week at most, whatever the server sends.
                lifetime_s=min(ticket.lifetime_s, 604_800),
                server_name=self.server_name,
                early_data=ticket.early_data,
                parameters=self._peer_parameters,
            )
        )


#: (state, level, message type) -> what handles it
_TABLE: Final[Mapping[tuple[State, int, int], Callable[[ClientHandshake, bytes], None]]] = {
    (State.SERVER_HELLO, Level.INITIAL, codec.SERVER_HELLO): ClientHandshake._on_server_hello,
    (
        State.ENCRYPTED_EXTENSIONS,
        Level.HANDSHAKE,
        codec.ENCRYPTED_EXTENSIONS,
    ): ClientHandshake._on_encrypted_extensions,
    (State.CERTIFICATE, Level.HANDSHAKE, codec.CERTIFICATE_REQUEST): ClientHandshake._on_certificate_request,
    (State.CERTIFICATE, Level.HANDSHAKE, codec.CERTIFICATE): ClientHandshake._on_certificate,
    (State.CERTIFICATE_VERIFY, Level.HANDSHAKE, codec.CERTIFICATE_VERIFY): ClientHandshake._on_certificate_verify,
    (State.FINISHED, Level.HANDSHAKE, codec.FINISHED): ClientHandshake._on_finished,
    (State.CONNECTED, Level.ONE_RTT, codec.NEW_SESSION_TICKET): ClientHandshake._on_new_session_ticket,
}
