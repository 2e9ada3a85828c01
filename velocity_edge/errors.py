"""The two families of errors.

`VelocityError` is what a user can cause and fix: its text begins with "cannot", says where, and what would be right.
Everything else is a bug of ours: plain exceptions that nobody catches (docs/errors.md).
"""


class VelocityError(Exception):
    """Something a user can cause and fix. The text begins with "cannot"."""


class ConfigError(VelocityError):
    """A configuration that cannot be used: `file:line:col: server.tls.certificate: cannot ...`. Exit code 78."""


class CannotDo(VelocityError):
    """A request that this node refuses or that can never be met. Exit code 5."""


class Unavailable(VelocityError):
    """Something was asked for explicitly that this machine cannot give (BPF, XDP, an engine). Exit code 5."""


class Unreachable(VelocityError):
    """The node or the peer does not answer. Exit code 3."""


class TimedOut(VelocityError):
    """The time to wait is up while the node is still at work. Exit code 4."""
