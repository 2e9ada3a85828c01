"""Proxies of which no server is healthy: a sentence for `degraded`, with the line that shows why.

Each worker has its own view of a server's health; one that is healthy for any worker counts as healthy here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from velocity_edge.config.actions import ProxyAction
from velocity_edge.config.content import Content, Proxy
from velocity_edge.config.routes import routes_of
from velocity_edge.config.section import dotted_path
from velocity_edge.config.upstream_url import UpstreamUrl
from velocity_edge.status.document import Upstream


def unhealthy(content: Content, rows: Sequence[Upstream]) -> Iterator[str]:
    """Yield a sentence for each proxy without a healthy server. *rows*: those of the status document."""
    down = {row["upstream"] for row in rows if row["healthy_workers"] == 0}
    if not down:
        return
    seen = set()
    for route in routes_of(content):
        if route.where in seen or not isinstance(route.action, Proxy | ProxyAction):
            continue
        seen.add(route.where)
        urls = [url for _, url in route.action.servers()]
        if all(str(url) in down for url in urls):
            named = ", ".join(str(url) for url in urls[:3]) + (", ..." if len(urls) > 3 else "")
            yield (
                f"{dotted_path(route.where)} ({route.host}): none of its servers is healthy ({named}); requests are "
                f"still tried. `{_try_it(urls[0])}` shows whether it answers"
            )


def _try_it(url: UpstreamUrl) -> str:
    if url.socket:
        return f"curl -v --unix-socket {url.socket} http://localhost/"
    if url.scheme == "h2c":
        return f"curl -v --http2-prior-knowledge http://{url.authority}/"
    return f"curl -v {url.scheme}://{url.authority}/"
