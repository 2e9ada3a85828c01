"""The errors that a user can cause and fix.

The text of a `VelocityError` begins with "cannot", and names the place and the expected value. Every other exception is
a bug of this program, and is not caught (docs/errors.md). Short because it is only the classes.
"""


class VelocityError(Exception):
    """An error that a user can cause and fix. The text begins with "cannot"."""


class ConfigError(VelocityError):
    """A configuration that cannot be used: `file:line:col: server.tls.certificate: cannot ...`. Exit code 78."""


class CannotDo(VelocityError):
    """A request that this node refuses, or that cannot be met. Exit code 5."""


class Unavailable(VelocityError):
    """Something that is configured explicitly is not available on this machine (BPF, XDP, an engine). Exit code 5."""


class Unreachable(VelocityError):
    """The node or the peer does not answer. Exit code 3."""


class TimedOut(VelocityError):
    """The time to wait has ended before the operation. Exit code 4."""
