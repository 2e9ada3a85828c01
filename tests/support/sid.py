"""Commands of the Debian sid root (debian.py): current third-party clients and servers, on any Debian release."""

from __future__ import annotations

from tests.support.debian import DebianRoot

ROOT = DebianRoot("sid")
missing, require, command, run, start = ROOT.missing, ROOT.require, ROOT.command, ROOT.run, ROOT.start
