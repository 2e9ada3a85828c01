"""A document holds a table without loss across versions; whatever else it is, it is refused without quoting a key."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.epoch_tables import DAY, root, table
from velocity_edge.errors import ConfigError
from velocity_edge.keys import rotation
from velocity_edge.keys.document import dump, parse


def test_documents_of_the_first_version_have_the_same_meaning() -> None:
    current = rotation.announce(table(3, 4, 5), root(6), 0.0, DAY)
    written = json.loads(dump(current))
    assert (written["version"], written["seal_with"]) == (1, 5)
    assert {"epoch", "created_s", "root"} == set(written["epochs"][0])
    for later in ("cid_epochs", "closed", "announced"):
        del written[later]
    # Without these fields the newest epoch is announced if it does not seal, and two are live.
    assert parse(json.dumps(written).encode(), "t.json") == replace(current, cid_live=(6, 5))


def test_fields_of_a_later_version_are_ignored() -> None:
    document = json.loads(dump(table(1))) | {"from_the_future": 1}
    document["epochs"][0]["origin"] = "etcd"
    assert parse(json.dumps(document).encode(), "t.json") == table(1)


def test_a_document_of_0_1_0_is_read() -> None:
    """Such files exist: this text must not change."""
    root = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    epoch = f'{{"epoch": 7, "created_s": 1790000000.0, "root": "{root}"}}'
    text = f'{{"version": 1, "seal_with": 7, "epochs": [{epoch}]}}'
    read = parse(text.encode(), "t.json")
    assert (read.seal_with, read.epochs[0].root) == (7, bytes(range(32)))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="cannot read the keys"):
        parse(content, "t.json")


def test_every_truncation_is_refused() -> None:
    whole = dump(table(1, 2)).rstrip()
    for end in range(len(whole)):
        with pytest.raises(ConfigError):
            parse(whole[:end], "t.json")


def test_the_error_quotes_no_key() -> None:
    content = dump(table(1)).replace(b'"created_s": 21600.0', b'"created_s": "soon"')
    with pytest.raises(ConfigError) as caught:
        parse(content, "t.json")
    assert "AAAA" not in str(caught.value)
