"""The client of the admin API: HTTP over the admin socket of a node, as `curl --unix-socket` uses it.

It asks the node of VELOCITY_RUNTIME_DIR, else of the default directory (velocity_edge/paths.py). A status other than
2xx becomes the exception with the exit code that fits; its text is the error that the node returned.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from velocity_edge.admin.answers import Answer
from velocity_edge.admin.json_form import parse_answer, request_body
from velocity_edge.admin.requests import Request
from velocity_edge.admin.verbs import Verb, verb_of
from velocity_edge.cli.shape import WrongShape, conform
from velocity_edge.errors import CannotDo, TimedOut, Unreachable, VelocityError
from velocity_edge.paths import admin_socket
from velocity_edge.status.document import Keys, NodeStatus
from velocity_edge.text.printable import printable

#: A node answers from memory; one that needs longer hangs.
TIMEOUT_S = 5.0
_MAX_REFUSAL_BYTES = 65_536
_TIMED_OUT = "cannot wait longer than {:g} s: the node goes on; see `velocity-edge status`"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("node", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Received(NamedTuple):
    """One line of an answer, and the JSON object as it came: a newer node has more fields."""

    answer: Answer
    line: dict[str, Any]


class Node:
    """The node at the other end of an admin socket."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or admin_socket()

    def get(self, target: str) -> Any:
        """Return the JSON at *target*."""
        connection, response = self._open("GET", target, None, TIMEOUT_S)
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._no_node(error) from None
        finally:
            connection.close()

    def status(self) -> NodeStatus:
        """Return the status of the node."""
        return self.understood(self.get("/v1/status"))

    def understood(self, found: Any) -> NodeStatus:
        """Return the answer to GET /v1/status as a status document. Raises `Unreachable`."""
        try:
            # Every version of a node has these.
            if not (isinstance(found, dict) and found.get("state") and "workers" in found):
                raise WrongShape("the answer is not a status document")
            return cast("NodeStatus", conform(found, NodeStatus))
        except (WrongShape, RecursionError) as error:
            raise self._no_node(error) from None

    def keys(self) -> Keys:
        """Return the epochs of its keys."""
        found = self.get("/v1/tickets")
        try:
            if not (isinstance(found, dict) and "epochs" in found):
                raise WrongShape("the answer has no epochs")
            return cast("Keys", conform(found, Keys))
        except (WrongShape, RecursionError) as error:
            raise self._no_node(error) from None

    def _no_node(self, error: Exception) -> Unreachable:
        return Unreachable(f"cannot understand the node at {self.path}: {printable(str(error), 200)}")

    def ask(self, request: Request, *, timeout_s: float) -> Iterator[Received]:
        """Send *request* and yield the lines of the answer until it ends.

        Raises `TimedOut` when no line comes for *timeout_s*.
        """
        verb = verb_of(request)
        connection, response = self._open("POST", verb.path, request_body(request), timeout_s)
        try:
            for line in response:
                if line.strip():
                    yield _received(json.loads(line), verb)
        except TimeoutError:
            raise TimedOut(_TIMED_OUT.format(timeout_s)) from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise Unreachable(f"cannot follow the node at {self.path}: {printable(str(error), 200)}") from None
        finally:
            connection.close()

    def _open(
        self, method: str, target: str, body: dict[str, Any] | None, timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(
                method, target, content, {"Content-Type": "application/json"} if body is not None else {}
            )
            response = connection.getresponse()
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            raise Unreachable(f"cannot reach a node at {self.path}: no node is running there") from None
        except PermissionError:
            connection.close()
            raise CannotDo(
                f"cannot open {self.path}: permission denied; only the user of the node, its group and root may"
            ) from None
        except TimeoutError:
            connection.close()
            raise TimedOut(_TIMED_OUT.format(timeout_s)) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(f"cannot reach the node at {self.path}: {printable(str(error), 200)}") from None
        if response.status >= 400:
            try:
                text = response.read(_MAX_REFUSAL_BYTES).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException):
                text = ""
            connection.close()
            raise _refusal(response.status, text)
        return connection, response


def _received(line: Any, verb: Verb) -> Received:
    return Received(parse_answer(line, verb.facts), line)


def _refusal(status: int, text: str) -> VelocityError:
    """Return the exception for a status other than 2xx; the node sends {"error": "cannot ..."}."""
    try:
        sentence = json.loads(text)["error"]
        if not isinstance(sentence, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        sentence = f"cannot do this: the node answered {status} {text[:200].strip()}".rstrip()
    sentence = printable(sentence, _MAX_REFUSAL_BYTES)
    return CannotDo(sentence) if status < 500 else VelocityError(sentence)
