"""The right password passes; a wrong one, an unknown name and a flood of either do not, nor do they stop the loop."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.guards import Around, decisions, field, request, section
from tests.support.site import Clock
from velocity_edge.config.middlewares.basic import Basic
from velocity_edge.http.passwords import Hash, parse_file
from workers.measures import Measures
from workers.middleware.auth.basic import MAX_REMEMBERED, MAX_WAITING, REMEMBER_S, BasicGuard, Verifier, credentials

SALT = bytes(16)
USERS = "".join(
    f"{name}:$scrypt$ln=10,r=8,p=1${base64.b64encode(SALT).decode().rstrip('=')}$"
    + base64.b64encode(hashlib.scrypt(password, salt=SALT, n=1024, r=8, p=1, dklen=32)).decode().rstrip("=")
    + "\n"
    for name, password in (("alice", b"s3cret"), ("bob", b"a:b"))
)


class Rig:
    """A guard with two users."""

    def __init__(self, **settings: Any) -> None:
        self.section = section(Basic, name="staff", kind="basic", users="/users", **settings)
        self.clock, self.measures = Clock(), Measures()
        self.verifier = Verifier(parse_file(USERS.encode()), self.section.max_failures, self.clock)
        self.around = Around(BasicGuard(self.section, self.measures, self.verifier))

    async def get(self, pair: bytes, **more: Any) -> int:
        asked = request(b"/", (b"authorization", b"Basic " + base64.b64encode(pair)))
        for name, value in more.items():
            setattr(asked, name, value)
        return (await self.around(asked)).status


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    rig = Rig(user_field="x-user")
    yield rig
    rig.verifier.close()


@pytest.fixture(name="verified")
def _verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each verification."""
    threads: list[str] = []
    real = Hash.verifies

    def counted(self: Hash, password: bytes) -> bool:
        threads.append(threading.current_thread().name)
        return real(self, password)

    monkeypatch.setattr(Hash, "verifies", counted)
    return threads


async def test_the_right_password_passes_with_the_name(rig: Rig) -> None:
    assert (await rig.get(b"alice:s3cret"), await rig.get(b"bob:a:b")) == (200, 200)
    served = rig.around.served[0]
    assert served.claims == {"sub": "alice"}
    assert (served.upstream_fields, served.upstream_drop) == ([(b"x-user", b"alice")], [b"authorization"])


@pytest.mark.parametrize("pair", [b"alice:s3cre", b"alice:", b"bob:s3cret", b"mallory:s3cret", b"alice", b"", b":"])
async def test_anything_else_is_a_401(rig: Rig, pair: bytes) -> None:
    assert await rig.get(pair) == 401
    assert not rig.around.served


async def test_without_a_password_the_browser_is_told_to_ask(rig: Rig) -> None:
    response = await rig.around(request())
    assert (response.status, field(response, b"www-authenticate")) == (
        401,
        b'Basic realm="velocity-edge", charset="UTF-8"',
    )


async def test_a_right_pair_is_verified_once_in_five_minutes_in_a_thread(rig: Rig, verified: list[str]) -> None:
    for _ in range(5):
        assert await rig.get(b"alice:s3cret") == 200
    assert len(verified) == 1
    assert verified[0].startswith("passwords")
    assert await rig.get(b"alice:other") == 401
    rig.clock.now_s += REMEMBER_S - 0.1
    assert await rig.get(b"alice:s3cret") == 200
    assert len(verified) == 2
    rig.clock.now_s += 0.1
    assert await rig.get(b"alice:s3cret") == 200
    assert len(verified) == 3


async def test_an_unknown_name_costs_as_much_as_a_known_one(rig: Rig, verified: list[str]) -> None:
    await rig.get(b"alice:x")
    await rig.get(b"nobody:x")
    assert len(verified) == 2


async def test_no_password_is_right_for_an_unknown_name(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hash, "verifies", lambda self, password: True)
    assert (await rig.get(b"nobody:x"), await rig.get(b"alice:x")) == (401, 200)


async def test_who_guesses_gets_429_without_a_verification(rig: Rig, verified: list[str]) -> None:
    """Alone: another client, and a pair that is known to be right, still pass."""
    assert await rig.get(b"bob:a:b") == 200
    statuses = [await rig.get(b"alice:%d" % i) for i in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert len(verified) == 11
    assert await rig.get(b"alice:s3cret") == 429
    assert await rig.get(b"bob:a:b") == 200
    assert await rig.get(b"alice:s3cret", client=(bytes((192, 0, 2, 8)), 1)) == 200
    response = await rig.around(request(b"/", (b"authorization", b"Basic " + base64.b64encode(b"alice:x"))))
    assert (response.status, field(response, b"retry-after")) == (429, b"6")
    rig.clock.now_s += 6
    assert await rig.get(b"bob:wrong") == 401
    assert decisions(rig.measures) == {"ok": 3, "invalid": 11, "limited": 4}


async def test_right_passwords_do_not_count_as_guesses(rig: Rig) -> None:
    for _ in range(30):
        assert await rig.get(b"alice:s3cret") == 200
        rig.clock.now_s += REMEMBER_S
    assert len(rig.verifier.failures) == 0


async def test_few_verifications_wait_and_the_loop_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(Hash, "verifies", lambda self, password: go.wait(10) and False)

    def one(i: int) -> asyncio.Task[int]:
        # From different addresses: no single one guesses too much.
        return asyncio.ensure_future(rig.get(b"alice:%d" % i, client=(bytes((192, 0, 2, i)), 1)))

    waiting = [one(i) for i in range(MAX_WAITING)]
    await asyncio.sleep(0)
    assert await one(100) == 503
    go.set()
    assert await asyncio.gather(*waiting) == [401] * MAX_WAITING
    assert await one(101) == 401


async def test_what_is_remembered_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hash, "verifies", lambda self, password: True)
    for i in range(MAX_REMEMBERED + 5):
        await rig.verifier.verify("alice", b"alice:%d" % i)
    assert len(rig.verifier._right) == MAX_REMEMBERED


async def test_the_password_stays_with_the_node_unless_configured() -> None:
    rig = Rig(hide_credentials=False)
    assert await rig.get(b"alice:s3cret") == 200
    assert rig.around.served[0].upstream_drop == []
    assert rig.around.served[0].upstream_fields == []
    rig.verifier.close()


@pytest.mark.parametrize(
    "field_value",
    [
        b"Basic",
        b"Basic !!!",
        b"Bearer YTpi",
        b"Basic YWI=",
        b"Basic /zph",
        b"Basic " + base64.b64encode(b"a:" + b"x" * 1025),
    ],
)
def test_what_is_no_pair_is_none(field_value: bytes) -> None:
    assert credentials(field_value) is None
