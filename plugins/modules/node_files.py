#!/usr/bin/python
# Copyright (c) 2026 citus_ha contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write all files of one node in one module execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_files
short_description: Write all configuration files of a node at once
version_added: 0.1.0
description:
  - Writes a list of files with owner, group and mode, each atomically, or removes them, and tells which of them
    changed. All are written before the first takes its place.
  - One execution for all files of a node instead of several for each file. The number of module
    executions is what the time of a deployment consists of.
author: citus_ha contributors (@citus-ha)
extends_documentation_fragment:
  - citus_ha.cluster.attributes
options:
  root:
    description:
      - Folder that stands for C(/) of the node. For a container, the folder on the Docker machine that
        is mounted into it; empty where the node is the machine.
    type: str
    default: ""
  owner:
    description: Numeric user id or user name that owns files and folders. The user that runs the task when not given.
    type: str
  group:
    description: Numeric group id or group name of files and folders. The group of that user when not given.
    type: str
  files:
    description: The files. Missing parent folders are made with mode 0750.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the node.
        type: str
        required: true
      state:
        description: Whether the file shall be there.
        type: str
        choices: [present, absent]
        default: present
      content:
        description: The whole content. This, or one in O(secrets), is required where the file shall be there.
        type: str
      mode:
        description: Octal file mode.
        type: str
        default: "0640"
      group:
        description: Group of this file and of the folders that are made for it, where it is another one.
        type: str
  pending:
    description:
      - Absolute path on the node of a file in which changed files are remembered, for a process that has to be told of
        them, until somebody removes it. A run that ended in between leaves the telling to the next, which finds them
        among RV(changed_files). Where none of the files was there before, there is nobody to be told.
    type: str
  secrets:
    description:
      - Contents of files that nobody shall see, by O(files[].path). They appear in no output, in no diff, and not in
        the system's log, where Ansible writes what a module was given.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write HAProxy's configuration
  citus_ha.cluster.node_files:
    owner: haproxy
    group: haproxy
    files:
      - path: /etc/citus_ha/haproxy/haproxy.cfg
        content: "{{ lookup('ansible.builtin.template', 'haproxy.cfg.j2') }}"
      - path: /etc/citus_ha/tls/node.key
        mode: "0600"
    secrets:
      /etc/citus_ha/tls/node.key: "{{ lookup('ansible.builtin.file', 'node.key') }}"
  register: written
"""

RETURN = r"""
changed_files:
  description: Paths on the node whose content, owner or mode changed (in check mode, would change).
  type: list
  elements: str
  returned: success
  sample: [/etc/citus_ha/haproxy/haproxy.cfg]
pending:
  description: Whether O(pending) is there, to be removed when the process has been told.
  type: bool
  returned: success
"""

import difflib
import grp
import json
import os
import pwd
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.citus_ha.cluster.plugins.module_utils._errors import CitusHaError, InvalidInput
from ansible_collections.citus_ha.cluster.plugins.module_utils._runner import run


@dataclass(frozen=True)
class FileState:
    """What is on the disk, or should be: content (None: no such file), mode, numeric owner and group."""

    content: str | None
    mode: int
    uid: int
    gid: int


ABSENT = FileState(None, 0, -1, -1)


def observe(path: str) -> FileState:
    """State of one file; a file that is not valid UTF-8 counts as having other content."""
    try:
        status = os.stat(path)
        with open(path, encoding="utf-8", errors="replace") as file:
            content = file.read()
    except FileNotFoundError:
        return ABSENT
    return FileState(content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def difference(path: str, before: FileState, after: FileState, secret: bool) -> str:
    """Unified diff of a file with its mode and owner; a secret's content is never part of it."""

    def lines(state: FileState) -> list[str]:
        if state.content is None:
            return []
        head = f"# mode {state.mode:04o}, owner {state.uid}:{state.gid}"
        return [head, *(["(secret content)"] if secret else state.content.splitlines())]

    text = "\n".join(
        difflib.unified_diff(lines(before), lines(after), f"before: {path}", f"after: {path}", lineterm="")
    )
    if secret and before.content != after.content:
        text += ("\n" if text else "") + f"{path}: the secret content differs"
    return text


def prepare(path: str, state: FileState) -> str:
    """Write the file beside its place; the name it has there."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".citus_ha.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(state.content or "")
            file.flush()
            os.fchmod(file.fileno(), state.mode)
            os.fchown(file.fileno(), state.uid, state.gid)
            os.fsync(file.fileno())
    except OSError:
        os.unlink(temporary)
        raise
    return temporary


def write(files: Sequence[tuple[str, FileState]]) -> None:
    """Replace the files, each atomically; readers see the old or the new content, never a part.

    All are written before the first takes its place: whoever reads a certificate and its key meanwhile finds a pair.
    A failure before that changes nothing.
    """
    prepared: list[tuple[str, str]] = []
    path = ""
    try:
        for path, state in files:
            prepared.append((prepare(path, state), path))
        while prepared:
            temporary, path = prepared[0]
            os.replace(temporary, path)
            del prepared[0]
    except OSError as error:
        raise CitusHaError(
            f"Could not write {path}: {error.strerror}.", "Check free space and rights on that folder."
        ) from error
    finally:
        for temporary, _path in prepared:
            os.unlink(temporary)


def remove(paths: Iterable[str]) -> None:
    """Remove the files."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError as error:
            raise CitusHaError(
                f"Could not remove {path}: {error.strerror}.", "Check the rights on that folder."
            ) from error


def make_folders(folder: str, root: str, uid: int, gid: int) -> None:
    """Make the missing folders down to ``folder``; only those that are made get the owner."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            # Nodes of one Docker machine are written at the same time, and share the folders above their own.
            continue
        if path.startswith(root):
            os.chown(path, uid, gid)


def number(name: str, look_up: Any, kind: str, may_be_missing: bool) -> int:
    """Numeric id of a user or group given by name or number; -1 for one that may be missing, as in check mode."""
    if name.isdigit():
        return int(name)
    try:
        return int(look_up(name)[2])
    except KeyError as error:
        if may_be_missing:
            return -1
        raise InvalidInput(
            f"{kind}: there is no {kind} '{name}' on this machine.", "Create it or give its number."
        ) from error


def remembered(path: str) -> list[str]:
    """The files of which an earlier run should have told the process, and did not."""
    try:
        with open(path, encoding="utf-8") as file:
            return [str(name) for name in json.load(file)]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CitusHaError(f"{path} is no list of files: {error}.", "Remove it, and restart the process.") from error


def refuse_unclear(files: Iterable[dict[str, Any]], secrets: dict[str, str]) -> None:
    """Each file that shall be there has one content, and each secret is a file's."""
    paths = {file["path"] for file in files}
    for file in files:
        contents = [content for content in (file["content"], secrets.get(file["path"])) if content is not None]
        if file["state"] == "present" and len(contents) != 1:
            raise InvalidInput(f"files: {file['path']} has {len(contents)} contents.", "Give one, there or in secrets.")
    for path in secrets.keys() - paths:
        raise InvalidInput(f"secrets: {path} is none of the files.", "Name it in files, with its mode.")


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and unless in check mode write."""
    params = module.params
    refuse_unclear(params["files"], params["secrets"])
    # A package that makes the user may not be installed yet.
    missing_ok = module.check_mode
    uid = number(params["owner"], pwd.getpwnam, "owner", missing_ok) if params["owner"] else os.geteuid()
    default_gid = number(params["group"], grp.getgrnam, "group", missing_ok) if params["group"] else os.getegid()
    changed, differences = [], []
    to_write: list[tuple[str, FileState]] = []
    to_remove: list[str] = []
    pending = params["root"] + params["pending"] if params["pending"] else ""
    forgotten = remembered(pending) if pending else []
    is_new = True
    for file in params["files"]:
        path = params["root"] + file["path"]
        gid = number(file["group"], grp.getgrnam, "group", missing_ok) if file["group"] else default_gid
        secret = file["path"] in params["secrets"]
        content = params["secrets"][file["path"]] if secret else file["content"]
        desired = FileState(content, int(file["mode"], 8), uid, gid) if file["state"] == "present" else ABSENT
        before = observe(path)
        is_new = is_new and before == ABSENT
        if before == desired:
            continue
        changed.append(file["path"])
        differences.append(difference(file["path"], before, desired, secret))
        if desired is ABSENT:
            to_remove.append(path)
        else:
            to_write.append((path, desired))
    for path in forgotten:
        if path not in changed:
            changed.append(path)
            differences.append(f"{path}: changed by a run that has told nobody")
    remembers = bool(pending) and bool(changed) and not is_new
    if remembers:
        to_write.insert(0, (pending, FileState(json.dumps(changed), 0o600, uid, default_gid)))
    if not module.check_mode:
        for path, desired in to_write:
            try:
                make_folders(os.path.dirname(path), params["root"], desired.uid, desired.gid)
            except OSError as error:
                raise CitusHaError(
                    f"Could not make the folder of {path}: {error.strerror}.", "Check the rights on what is above it."
                ) from error
        write(to_write)
        remove(to_remove)
    return {
        "changed": bool(changed),
        "changed_files": changed,
        "pending": remembers,
        "diff": [{"prepared": text + "\n"} for text in differences],
    }


def main() -> None:
    """Entry point."""
    run(
        AnsibleModule(
            argument_spec={
                "root": {"type": "str", "default": ""},
                "owner": {"type": "str"},
                "group": {"type": "str"},
                "pending": {"type": "str"},
                "files": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": {
                        "path": {"type": "str", "required": True},
                        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                        "content": {"type": "str"},
                        "mode": {"type": "str", "default": "0640"},
                        "group": {"type": "str"},
                    },
                },
                # Not within files: Ansible logs a list as text, in which it finds no secret that has a line's end.
                "secrets": {"type": "dict", "default": {}, "no_log": True},
            },
            supports_check_mode=True,
        ),
        work,
        needs_psycopg2=False,
    )


if __name__ == "__main__":
    main()
