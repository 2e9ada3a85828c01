"""Short answers of middleware that does not let a request through. Short because that is all it decides."""

from __future__ import annotations

from workers.http import Request, Response, phrase, plain


def refusal(request: Request, status: int, text: str = "", *headers: tuple[bytes, bytes]) -> Response:
    """Return *status* with a line of text (of its own where the status has no phrase); without a body for HEAD."""
    try:
        response = plain(status, text or phrase(status), *headers)
    except ValueError:
        response = plain(status, f"Status {status}", *headers)
    return Response(status, response.headers) if request.method == b"HEAD" else response


def too_early(request: Request) -> Response:
    """Return the 425 of a request in early data whose client address decides: it is not proven yet (RFC 8470).

    A client sends the request again when the handshake is complete.
    """
    return refusal(request, 425, "Too Early")
