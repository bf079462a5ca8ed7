"""Gives what root made to the user that twistd will become: sockets and the log file."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from greetsvc.errors import ConfigError
from greetsvc.printable import escaped

__all__ = ["Owner", "locked"]


class Owner(NamedTuple):
    """The user and the group that this process will have; -1 where they do not change."""

    uid: int = -1
    gid: int = -1

    @classmethod
    def of(cls, twistd: Mapping[str, Any] | None) -> Owner:
        """What twistd's ``--uid`` and ``--gid`` ask for, also with ``--euid``.

        Raises `ConfigError` for a user that is not known here: twistd would fail with a traceback, after the fork.
        """
        uid, gid, chroot = ((twistd or {}).get(name) for name in ("uid", "gid", "chroot"))
        if uid is not None:
            try:
                user = pwd.getpwuid(uid)
                gid = user.pw_gid if gid is None else gid  # as twistd does
            except (KeyError, OverflowError):
                if chroot is None:  # else the users are those of the system in it
                    raise ConfigError(f"--uid: {uid} is no user of this system") from None
        return cls(-1 if uid is None else uid, -1 if gid is None else gid)

    def give_socket(self, path: str) -> str:
        """Give the file of a UNIX socket. Returns why that failed; empty if it did not, or there is nothing to do."""
        if self == Owner():
            return ""
        try:
            if not hasattr(os, "O_PATH"):
                os.chown(path, self.uid, self.gid, follow_symlinks=False)
                return ""
            # Who may write to the folder can put a link there: the descriptor stays with what was looked at.
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    return f"{escaped(path)} keeps its owner: it is no longer a socket"
                # Of a path-only descriptor only /proc tells the file again (open(2)).
                os.chown(f"/proc/self/fd/{descriptor}", self.uid, self.gid)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"{escaped(path)} keeps its owner: {error.strerror}"
        return ""

    def give_file(self, path: str, descriptor: int) -> str:
        """Give an open file. Returns why that is not done, as `give_socket` does.

        A link is not followed: in a folder of the user's own it could make root give away any file.
        """
        found = os.fstat(descriptor)
        if self == Owner() or not stat.S_ISREG(found.st_mode):
            return ""
        try:
            if found.st_nlink > 1 or not os.path.samestat(os.lstat(path), found):
                return f"{escaped(path)} keeps its owner: it is a link"
            os.fchown(descriptor, self.uid, self.gid)
        except OSError as error:
            return f"{escaped(path)} keeps its owner: {error.strerror}"
        return ""


def locked(path: str) -> str:
    """Why this process may neither rename nor remove the file at ``path``; empty if it may."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.strerror or "out of reach"
    may = os.access(Path(path).parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    return "" if may else "its folder is not writable for this user"
