# Copyright (c) 2026 citus_ha contributors
# MIT License (see LICENSE or https://opensource.org/license/mit)
# SPDX-License-Identifier: MIT
"""The module node_files, as several nodes of one machine use it at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, InvalidInput
from ansible_collections.citus_ha.cluster.plugins.modules import node_files


def test_nodes_share_the_folders_above_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All see that the shared folder is missing before any of them makes it."""
    nodes = 8
    seen_missing = Barrier(nodes, timeout=10)
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        if path == str(tmp_path / "cluster"):
            seen_missing.wait()
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)

    def prepare(number: int) -> None:
        node_files.make_folders(str(tmp_path / f"cluster/{number}/etc"), str(tmp_path), os.geteuid(), os.getegid())

    with ThreadPoolExecutor(nodes) as threads:
        list(threads.map(prepare, range(nodes)))
    assert all((tmp_path / f"cluster/{number}/etc").is_dir() for number in range(nodes))


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    with pytest.raises(OSError, match="Not a directory"):
        node_files.make_folders(str(tmp_path / "taken/etc"), str(tmp_path), os.geteuid(), os.getegid())
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def written(check_mode: bool = False, **file: Any) -> dict[str, Any]:
    """What the module returns for one file."""
    defaults = {"state": "present", "content": None, "mode": "0640", "group": None}
    secrets = {file["path"]: file.pop("secret")} if "secret" in file else {}
    pending = file.pop("pending", None)
    params = {"root": "", "owner": None, "group": None, "pending": pending, "secrets": secrets}
    params["files"] = [{**defaults, **file}]
    return node_files.work(SimpleNamespace(params=params, check_mode=check_mode))  # type: ignore[arg-type]


def test_a_file_goes_away_again(tmp_path: Path) -> None:
    path = tmp_path / "etc/90-here.conf"
    assert not written(path=str(path), state="absent")["changed"]
    assert not path.parent.exists(), "nothing is made for a file that shall not be there"
    assert written(path=str(path), content="vm.swappiness = 1\n")["changed"]
    predicted = written(path=str(path), state="absent", check_mode=True)
    assert path.exists()
    removed = written(path=str(path), state="absent")
    assert not path.exists()
    assert removed == predicted
    assert removed["changed_files"] == [str(path)] and "-vm.swappiness = 1" in removed["diff"][0]["prepared"]
    assert not written(path=str(path), state="absent")["changed"]


def test_a_run_that_ended_before_it_told_the_process_is_finished_by_the_next(tmp_path: Path) -> None:
    path, pending = tmp_path / "haproxy.cfg", tmp_path / "haproxy.pending"
    first = written(path=str(path), content="1", pending=str(pending))
    assert first["changed"] and not first["pending"] and not pending.exists(), "nobody has read it yet"
    second = written(path=str(path), content="2", pending=str(pending))
    assert second["pending"] and pending.exists()
    # Nobody removes it: the run ends here.
    for check_mode in (True, False):
        again = written(path=str(path), content="2", pending=str(pending), check_mode=check_mode)
        assert again["changed_files"] == [str(path)] and again["changed"]
    pending.unlink()
    assert not written(path=str(path), content="2", pending=str(pending))["changed"]


def test_a_list_of_files_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pending").write_text("[", encoding="utf-8")
    with pytest.raises(CitusHaError, match=r"pending is no list of files: .* Remove it, and restart the process\."):
        written(path=str(tmp_path / "file"), content="1", pending=str(tmp_path / "pending"))


def test_a_secret_is_in_no_diff(tmp_path: Path) -> None:
    path = tmp_path / "password"
    for content in ("first", "second"):
        answer = written(path=str(path), secret=content, mode="0600")
        assert answer["changed"] and path.read_text(encoding="utf-8") == content
        assert "the secret content differs" in str(answer["diff"])
        assert "first" not in str(answer) and "second" not in str(answer)
    assert not written(path=str(path), secret="second", mode="0600")["changed"]


def test_a_file_has_one_content(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    twice: dict[str, Any] = {"content": "a", "secret": "b"}
    for given in ({}, twice):
        with pytest.raises(InvalidInput, match="contents"):
            written(path=path, **given)
    with pytest.raises(InvalidInput, match="none of the files"):
        node_files.refuse_unclear([], {path: "a"})


def test_all_files_are_written_before_the_first_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate and its key are a pair for whoever reads them at any time."""
    state = node_files.FileState("new", 0o600, os.geteuid(), os.getegid())
    paths = [str(tmp_path / name) for name in ("node.crt", "node.key")]
    for path in paths:
        Path(path).write_text("old", encoding="utf-8")
    real = os.replace
    seen: list[str] = []

    def replace(source: str, target: str) -> None:
        if not seen:
            assert len(list(tmp_path.glob(".citus_ha.*"))) == 2
            assert {Path(path).read_text(encoding="utf-8") for path in paths} == {"old"}
        seen.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    node_files.write([(path, state) for path in paths])
    assert seen == paths
    assert {Path(path).read_text(encoding="utf-8") for path in paths} == {"new"}


def test_a_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    state = node_files.FileState("new", 0o600, os.geteuid(), os.getegid())
    (tmp_path / "first").write_text("old", encoding="utf-8")
    with pytest.raises(CitusHaError, match=r"Could not write .*missing/second"):
        node_files.write([(str(tmp_path / "first"), state), (str(tmp_path / "missing/second"), state)])
    assert (tmp_path / "first").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
