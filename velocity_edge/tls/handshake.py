"""The server's side of a TLS 1.3 handshake: whole messages in, calls on the transport out.

    state           level      message          then
    FIRST_HELLO     INITIAL    ClientHello      our flight -> FINISHED, or HelloRetryRequest -> SECOND_HELLO
    SECOND_HELLO    INITIAL    ClientHello      our flight -> FINISHED
    FINISHED        HANDSHAKE  Finished         tickets -> DONE
    DONE            -          nothing

Anything else is unexpected_message: there are no client certificates here, TLS 1.3 has no renegotiation, and QUIC no
KeyUpdate (RFC 9001 section 6). Each ClientHello goes through `ServerPolicy.hello_opener` before it is parsed. What is
chosen from it is decided in choices.py and chains.py; this file computes and sends.

With `TransportParameters` the handshake is QUIC's; without, that of a record layer (choices.py has the differences).
The order of the calls on a QUIC transport matters: our transport parameters are asked for only after the Handshake
write key was installed, because ngtcp2 completes them then; the peer's are handed over before any key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from velocity_edge.tls import choices, codec
from velocity_edge.tls.alerts import Alert, AlertDescription, decode_error, unexpected_message
from velocity_edge.tls.choices import Choice
from velocity_edge.tls.client_hello import ClientHello, parse_client_hello
from velocity_edge.tls.kex import Group
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.schedule import KeySchedule
from velocity_edge.tls.transport import CONTINUE, HandshakeTransport, Level, TransportParameters


class State(Enum):
    """The states of a server's handshake."""

    FIRST_HELLO = "first hello"
    SECOND_HELLO = "second hello"
    FINISHED = "finished"
    DONE = "done"


class ServerHandshake:
    """Implements `transport.Handshake`. Dropped by the engine once `done`."""

    def __init__(
        self,
        policy: ServerPolicy,
        transport: HandshakeTransport,
        parameters: TransportParameters | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """*parameters*: QUIC's; None when *transport* is not QUIC."""
        self.done = False
        self.alpn = ""
        self.group = 0
        self.cipher_suite = 0
        self.signature_scheme = 0
        self.server_name = ""
        self.resumed = False
        self.early_data_accepted = False
        #: A HelloRetryRequest was sent.
        self.retried = False
        #: The client sent encrypted_client_hello, which was not opened.
        self.ech_offered = False
        self.client_random = b""
        #: Why `feed` returned an alert, for the log.
        self.alert_reason = ""
        self.state = State.FIRST_HELLO
        self._policy = policy
        self._transport = transport
        self._parameters = parameters
        self._opener = policy.hello_opener()
        self._wall_clock = wall_clock
        self._first: tuple[ClientHello, Choice, bytes] | None = None
        self._schedule: KeySchedule | None = None
        self._expected_finished = b""
        self._client_secret = b""
        self._wants_tickets = False

    def feed(self, level: int, message: bytes) -> int:
        """Take one whole message of this level. Return -1, or the alert to fail with."""
        try:
            if len(message) > self._policy.max_message_bytes:
                raise decode_error("message too large")
            allowed = _TABLE.get(self.state)
            if allowed is None or not message or (level, message[0]) != allowed[:2]:
                kind = message[0] if message else None
                raise unexpected_message(f"message {kind} at level {level} while waiting for {self.state.value}")
            allowed[2](self, message)
        except Alert as alert:
            self.alert_reason = alert.reason
            return int(alert.description)
        return CONTINUE

    # --- ClientHello ---------------------------------------------------------------------------------------------

    def _hello(self, message: bytes) -> None:
        policy, first = self._policy, self._first
        quic = self._parameters is not None
        hello = parse_client_hello(self._opener.open(message))
        if first is None:
            choice = choices.choose(policy, hello, quic=quic)
            prefix = b""
        else:
            choices.check_unchanged(first[0], hello)
            choice = choices.choose(policy, hello, first[1], quic=quic)
            prefix = first[2]
        if choice.share is None:
            self._ask_again(hello, choice)
            return
        self._first = None
        self.alpn = choice.alpn.decode("ascii")
        self.server_name = hello.server_name or ""
        self.group = choice.group.id
        self.cipher_suite = choice.suite.id
        self.client_random = hello.random
        self.ech_offered = hello.ech_offered
        self._flight(hello, choice, prefix)

    def _ask_again(self, hello: ClientHello, choice: Choice) -> None:
        request = codec.hello_retry_request(hello.session_id, choice.suite.id, choice.group.id)
        prefix = codec.message_hash(choice.suite.new_hash(hello.message).digest()) + request
        self._first = (hello, choice, prefix)
        self.retried = True
        self._transport.send_crypto(Level.INITIAL, request)
        self.state = State.SECOND_HELLO

    def _flight(self, hello: ClientHello, choice: Choice, prefix: bytes) -> None:
        """Send everything from ServerHello to our Finished."""
        policy, transport, parameters, suite = self._policy, self._transport, self._parameters, choice.suite
        if parameters is not None:
            try:
                parameters.peer_parameters(hello.extensions[codec.EXT_QUIC_PARAMETERS])
            except ValueError as error:
                raise Alert(AlertDescription.ILLEGAL_PARAMETER, f"transport parameters: {error}") from None
        quic = parameters is not None
        resumption = choices.resume(policy, hello, choice, prefix, self._wall_clock(), quic=quic)
        if resumption is None:
            chain, scheme = policy.certs.choose(hello, choice.alpn)
            schedule = KeySchedule(suite)
            schedule.add(prefix + hello.message)
        else:
            schedule = resumption.schedule
            self.resumed = True
            self.early_data_accepted = resumption.early_data
        # The client's share is checked before anything is sent or installed.
        assert choice.share is not None
        share, secret = self._respond(choice.group, choice.share)

        if self.early_data_accepted:
            transport.install_key(False, Level.ZERO_RTT, suite.id, schedule.derive(b"c e traffic"))
        psk = None if resumption is None else resumption.index
        server_hello = codec.server_hello(os.urandom(32), hello.session_id, suite.id, choice.group.id, share, psk)
        transport.send_crypto(Level.INITIAL, server_hello)
        schedule.add(server_hello)
        schedule.mix(secret)
        server_secret, client_secret = schedule.derive(b"s hs traffic"), schedule.derive(b"c hs traffic")
        transport.install_key(True, Level.HANDSHAKE, suite.id, server_secret)
        transport.install_key(False, Level.HANDSHAKE, suite.id, client_secret)

        local = None if parameters is None else parameters.local_parameters()
        flight = codec.encrypted_extensions(choice.alpn, local, self.early_data_accepted)
        if resumption is None:
            flight += chain.message
            schedule.add(flight)
            signed = codec.SERVER_SIGNATURE_CONTEXT + schedule.transcript_hash
            verify = codec.certificate_verify(scheme, chain.signer.sign(scheme, signed))
            schedule.add(verify)
            flight += verify
            self.signature_scheme = scheme
        else:
            schedule.add(flight)
        finished = codec.finished(schedule.finished(server_secret))
        schedule.add(finished)
        transport.send_crypto(Level.HANDSHAKE, flight + finished)

        self._expected_finished = schedule.finished(client_secret)
        schedule.mix(None)
        transport.install_key(True, Level.ONE_RTT, suite.id, schedule.derive(b"s ap traffic"))
        self._client_secret = schedule.derive(b"c ap traffic")
        self._wants_tickets = codec.PSK_DHE_KE in hello.psk_modes
        self._schedule = schedule
        self.state = State.FINISHED

    def _respond(self, group: Group, client_share: bytes) -> tuple[bytes, bytes]:
        told, began_s, valid = self._policy.on_key_exchange, time.perf_counter(), False
        try:
            answer = group.respond(client_share)
            valid = True
        finally:
            if told is not None:
                told(group, time.perf_counter() - began_s, valid)
        return answer

    # --- Finished ------------------------------------------------------------------------------------------------

    def _finish(self, message: bytes) -> None:
        choices.check_finished(self._expected_finished, message)
        self._transport.install_key(False, Level.ONE_RTT, self.cipher_suite, self._client_secret)
        if self._wants_tickets and self._policy.tickets is not None:
            self._send_tickets(message)
        self._schedule = None
        self.state = State.DONE
        self.done = True

    def _send_tickets(self, client_finished: bytes) -> None:
        policy, schedule = self._policy, self._schedule
        assert policy.tickets is not None
        assert schedule is not None
        schedule.add(client_finished)
        resumption_secret = schedule.derive(b"res master")
        context = policy.early_data.context if policy.early_data is not None and self._parameters is not None else b""
        tickets = b""
        for number in range(policy.ticket_count):
            nonce = bytes((number,))
            age_add = int.from_bytes(os.urandom(4), "big")
            ticket = policy.tickets.seal(
                suite_id=self.cipher_suite,
                secret=schedule.suite.expand(resumption_secret, b"resumption", nonce),
                age_add=age_add,
                server_name=self.server_name,
                alpn=self.alpn.encode("ascii"),
                early_data=context,
                now_s=self._wall_clock(),
            )
            tickets += codec.new_session_ticket(policy.tickets.lifetime_s, age_add, nonce, ticket, bool(context))
        self._transport.send_crypto(Level.ONE_RTT, tickets)


#: state -> (level, message type, what handles it)
_TABLE: Final[Mapping[State, tuple[int, int, Callable[[ServerHandshake, bytes], None]]]] = {
    State.FIRST_HELLO: (Level.INITIAL, codec.CLIENT_HELLO, ServerHandshake._hello),
    State.SECOND_HELLO: (Level.INITIAL, codec.CLIENT_HELLO, ServerHandshake._hello),
    State.FINISHED: (Level.HANDSHAKE, codec.FINISHED, ServerHandshake._finish),
}
