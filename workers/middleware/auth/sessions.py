"""Sessions and logins that have begun, as sealed cookies: the node stores nothing.

Every worker, and every node with the same epoch table, opens what another one sealed. What a cookie is good for is in
its associated data: the middleware's definition and the host, so that a session of one host opens on no other, and a
change of the definition ends the sessions of before. A rotation of keys ends none: a session under an older epoch is
sealed again, with the same end, while its epoch still opens (`Session.current`).

Times come from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from velocity_edge.keys.ring import LOGIN_COOKIE, SESSION_COOKIE
from workers.middleware.auth import cookies as jar
from workers.middleware.auth.login import LOGIN_S, Attempt, LoginFailed

if TYPE_CHECKING:
    from velocity_edge.keys.sealer import Sealer

Cookies = Sequence[tuple[bytes, bytes]]
Fields = list[tuple[bytes, bytes]]
#: Logins that one browser can have begun, in several tabs. The oldest ones are given up.
MAX_LOGINS: Final = 3
#: Cookies of logins that are looked at: a browser has at most MAX_LOGINS, whoever sends more made them.
_MAX_OPENED: Final = 16


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has signed in."""

    claims: Mapping[str, Any]
    #: Seconds since 1970.
    until_s: int
    #: Sealed by the present epoch.
    current: bool = True


class Sessions:
    """Reads and writes the cookies of one middleware."""

    def __init__(self, name: str, settings: Sequence[str], sealer: Sealer) -> None:
        """*settings*: what a cookie depends on; with others it does not open."""
        self._sealer = sealer
        #: Texts of JSON have no zero byte: no other settings with another host are the same.
        self._settings = json.dumps([name, *settings]).encode() + b"\0"
        self._session = jar.PREFIX + b"s-" + name.encode()
        self._login = jar.PREFIX + b"l-" + name.encode() + b"-"

    def _associated(self, host: bytes) -> bytes:
        return self._settings + host

    # --- sessions ----------------------------------------------------------------------------------------------------

    def session(self, cookies: Cookies, host: bytes, now_s: float) -> Session | None:
        """Return the session in *cookies*; None when there is none that is valid on *host* now."""
        sealed = jar.join(self._session, dict(cookies))
        opened = None if sealed is None else self._sealer.open(SESSION_COOKIE, sealed, self._associated(host))
        if opened is None:
            return None
        try:
            found = json.loads(opened.plain)
            session = Session(found["c"], found["e"], opened.current)
        except (TypeError, ValueError, KeyError):
            return None  # of another version with the same keys
        return session if now_s < session.until_s else None

    def keep(self, session: Session, cookies: Cookies, host: bytes, now_s: float) -> Fields | None:
        """Return the fields that store *session*; None when its claims are too large. *cookies*: what there is."""
        plain = json.dumps({"c": session.claims, "e": session.until_s}, separators=(",", ":")).encode()
        sealed = self._sealer.seal(SESSION_COOKIE, plain, self._associated(host))
        fields = jar.split(self._session, sealed, int(session.until_s - now_s))
        return None if fields is None else fields + jar.clear(self._session, self._names(cookies), len(fields))

    def end(self, cookies: Cookies) -> Fields:
        """Return the fields that delete everything of this middleware that the browser sent."""
        logins = [jar.set_cookie(name, b"", 0) for name in self._names(cookies) if name.startswith(self._login)]
        return jar.clear(self._session, self._names(cookies)) + logins[:_MAX_OPENED]

    @staticmethod
    def _names(cookies: Cookies) -> list[bytes]:
        return [name for name, _ in cookies]

    # --- logins ------------------------------------------------------------------------------------------------------

    def _name_of(self, state: str) -> bytes:
        # Eight characters tell a few logins apart; the whole state is compared after the cookie was opened.
        return self._login + state[:8].encode("ascii", "replace")

    def begin(self, attempt: Attempt, cookies: Cookies, host: bytes, now_s: float) -> Fields:
        """Return the fields that store *attempt*, and delete those that are over or too many."""
        begun = []
        fields = []
        for name, value in [pair for pair in cookies if pair[0].startswith(self._login)][:_MAX_OPENED]:
            other = self._opened(name, value, host)
            if other is None or now_s >= other.until_s:
                fields.append(jar.set_cookie(name, b"", 0))
            else:
                begun.append((other.until_s, name))
        begun.sort(reverse=True)
        fields += [jar.set_cookie(name, b"", 0) for _, name in begun[MAX_LOGINS - 1 :]]
        sealed = self._sealer.seal(LOGIN_COOKIE, attempt.dump(), self._associated(host))
        own = jar.split(self._name_of(attempt.state), sealed, LOGIN_S)
        assert own is not None, "the target is bounded"
        return own + fields

    def attempt(self, state: str, cookies: Cookies, host: bytes) -> Attempt:
        """Return the login with this *state* that this browser has begun. Raises `LoginFailed`."""
        name = self._name_of(state)
        found = self._opened(name, dict(cookies).get(name, b""), host)
        if found is None:
            raise LoginFailed("This login was not begun in this browser, or is over. Open the page again.")
        return found

    def _opened(self, name: bytes, value: bytes, host: bytes) -> Attempt | None:
        sealed = jar.join(name, {name: value})
        opened = None if sealed is None else self._sealer.open(LOGIN_COOKIE, sealed, self._associated(host))
        return None if opened is None else Attempt.load(opened.plain)

    def finish(self, state: str) -> tuple[bytes, bytes]:
        """Return the field that deletes the login with this *state*."""
        return jar.set_cookie(self._name_of(state), b"", 0)
