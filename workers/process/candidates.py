"""Revisions that were configured and not activated: they are prepared, checked, and then taken or released.

Only the newest one counts. A revision that cannot be served here is refused with a sentence for the operator; the
worker continues with the one that is active.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from velocity_edge.config.model import Config
from velocity_edge.errors import VelocityError
from velocity_edge.wire import messages as m
from workers.handlers.build import HandlerContext
from workers.handlers.static.beneath import Descriptor
from workers.serve.revisions import Prepared, prepare

log = logging.getLogger(__name__)


class Candidates:
    """The prepared revisions of one worker."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context
        self._prepared: Prepared | None = None

    def configure(
        self, order: m.Configure, descriptors: Sequence[int], check: Callable[[Prepared], None]
    ) -> m.Prepared | m.Refused:
        """Prepare a revision in place of the one before it; return the report.

        *descriptors*: those of the sites' directories. *check* raises `VelocityError` for what the engine cannot do.
        """
        roots = [Descriptor(fd) for fd in descriptors]
        prepared: Prepared | None = None
        try:
            config = Config.from_json(order.config)
            named = dict(zip(order.roots, roots, strict=True))
            prepared = prepare(order.revision, config, order.chains, named, self._context)
            check(prepared)
        except VelocityError as error:
            return self._refuse(order.revision, str(error), prepared)
        except Exception as error:
            # A bug, but no reason to end a worker that serves another revision.
            log.exception("cannot prepare revision %d", order.revision)
            reason = f"cannot prepare it: {type(error).__name__}: {error} (a bug; see the worker's log)"
            return self._refuse(order.revision, reason, prepared)
        self.close()
        self._prepared = prepared
        return m.Prepared(order.revision)

    def take(self, revision: int) -> Prepared:
        """Return the revision that is to be activated."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared.number != revision:
            raise RuntimeError(f"revision {revision} was never prepared")
        return prepared

    def close(self) -> None:
        """Release a revision that was not activated."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.close()

    def _refuse(self, revision: int, reason: str, prepared: Prepared | None) -> m.Refused:
        if prepared is not None:
            prepared.close()
        return m.Refused(revision, reason)
