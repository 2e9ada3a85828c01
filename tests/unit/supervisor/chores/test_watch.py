"""When a watched file or root counts as changed."""

from pathlib import Path

import pytest

from supervisor.chores import watch as module
from supervisor.chores.watch import Signature, Watch, all_below, signature


def test_a_file_counts_as_changed_once_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("a")
    watch = Watch(signature([path]))
    assert not watch.changed(signature([path]))
    new = tmp_path / "new"
    new.write_text("bb")
    new.replace(path)  # as editors and Ansible do
    assert [watch.changed(signature([path])) for _ in range(3)] == [False, True, False]
    path.unlink()
    assert [watch.changed(signature([path])) for _ in range(3)] == [False, False, False]


def test_the_symlink_swap_of_a_config_map_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serve.yaml").write_text("same size")
    data, path = tmp_path / "..data", tmp_path / "serve.yaml"
    data.symlink_to("one")
    path.symlink_to("..data/serve.yaml")
    watch = Watch(signature([path]))
    (tmp_path / "tmp").symlink_to("two")
    (tmp_path / "tmp").replace(data)
    assert [watch.changed(signature([path])) for _ in range(2)] == [False, True]


def test_a_root_changes_when_its_path_names_another_directory_not_with_its_content(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
    root, file = tmp_path / "current", tmp_path / "serve.yaml"
    file.write_text("a")
    root.symlink_to("v1")

    def look(*more: Path) -> Signature:
        return signature([file], [root, *more])

    watch = Watch(look())
    (tmp_path / "v1" / "new.html").write_text("new")
    assert [watch.changed(look()) for _ in range(2)] == [False, False]
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(root)
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]
    assert [watch.changed(look(tmp_path / "v1")) for _ in range(3)] == [False] * 3, "a site that was added just now"
    # A missing directory hides no change of a file; it counts as changed when another one is in its place.
    root.unlink()
    file.write_text("bb")
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]
    root.symlink_to("v1")
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]


def test_templates_that_change_come_or_go_are_a_change(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    nested = tmp_path / "mail" / "a.txt"
    nested.write_text("a")
    watch = Watch(signature(all_below(tmp_path)))

    def seen() -> list[bool]:
        return [watch.changed(signature(all_below(tmp_path))) for _ in range(2)]

    assert seen() == [False, False]
    nested.write_text("bb")
    assert seen() == [False, True]
    (tmp_path / "mail" / "new.txt").write_text("new")
    assert seen() == [False, True]
    nested.unlink()
    assert seen() == [False, True]


def test_a_large_folder_of_templates_is_not_walked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 3)
    for number in range(9):
        (tmp_path / str(number)).touch()
    assert len(all_below(tmp_path)) == 4
    assert all_below(tmp_path / "none") == [tmp_path / "none"]
