"""Talking to a node: HTTP over its admin socket, the same that `curl --unix-socket` speaks.

Which node: the one in VELOCITY_RUNTIME_DIR, else the usual place (velocity_edge/paths.py). An answer that is not 2xx
becomes the exception whose exit code fits; its text is the node's own sentence.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from velocity_edge.cli.shape import WrongShape, conform
from velocity_edge.errors import CannotDo, TimedOut, Unreachable, VelocityError
from velocity_edge.paths import admin_socket
from velocity_edge.status.document import Keys, NodeStatus
from velocity_edge.text.printable import printable

#: A node answers from memory; one that needs longer is stuck.
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


class Node:
    """The node behind an admin socket."""

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
        """Return what the node says about itself."""
        return self.understood(self.get("/v1/status"))

    def understood(self, found: Any) -> NodeStatus:
        """Return the answer to GET /v1/status as what status.py promises. Raises `Unreachable`."""
        try:
            # What no version of a node ever left out.
            if not (isinstance(found, dict) and found.get("state") and "workers" in found):
                raise WrongShape("no status")
            return cast("NodeStatus", conform(found, NodeStatus))
        except (WrongShape, RecursionError) as error:
            raise self._no_node(error) from None

    def keys(self) -> Keys:
        """Return what it says about its keys."""
        found = self.get("/v1/tickets")
        try:
            if not (isinstance(found, dict) and "epochs" in found):
                raise WrongShape("no keys")
            return cast("Keys", conform(found, Keys))
        except (WrongShape, RecursionError) as error:
            raise self._no_node(error) from None

    def _no_node(self, error: Exception) -> Unreachable:
        return Unreachable(f"cannot understand the node at {self.path}: {printable(str(error), 200)}")

    def lines(self, target: str, body: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Ask for a change and yield what happens meanwhile: NDJSON, one object per line, until it is over.

        Raises `TimedOut` when nothing happens for *timeout_s*.
        """
        connection, response = self._open("POST", target, body, timeout_s)
        try:
            for line in response:
                if line.strip():
                    yield _line(json.loads(line))
        except TimeoutError:
            raise TimedOut(
                f"cannot wait longer than {timeout_s:g} s: the node goes on; see `velocity-edge status`"
            ) from None
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
            raise Unreachable(f"cannot reach a node at {self.path}: none is running there") from None
        except PermissionError:
            connection.close()
            raise CannotDo(f"cannot open {self.path}: permission denied; the node's user and root may") from None
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


def _line(line: Any) -> dict[str, Any]:
    """Return one line of an answer: an object, whose text is a text and whose exit code, if it is there, a number."""
    if not isinstance(line, dict) or not isinstance(line.get("text", ""), str):
        raise ValueError("a line is no object with a text")
    if "exit_code" in line and (isinstance(line["exit_code"], bool) or not isinstance(line["exit_code"], int)):
        raise ValueError("an exit code is no number")
    return line


def _refusal(status: int, text: str) -> VelocityError:
    """Return the error for an answer that is not 2xx; the node says {"error": "cannot ..."}."""
    try:
        sentence = json.loads(text)["error"]
        if not isinstance(sentence, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        sentence = f"cannot do this: the node answered {status} {text[:200].strip()}".rstrip()
    sentence = printable(sentence, _MAX_REFUSAL_BYTES)
    return CannotDo(sentence) if status < 500 else VelocityError(sentence)
