# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Becoming another user of the operating system's for a while, and for good in a child process."""

import os
import pwd
import subprocess

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _account
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from support import needs


def ourselves():
    return os.geteuid(), os.getegid(), sorted(os.getgroups()), os.environ.get("HOME")


def test_who_we_are_is_nobody_else(tmp_path):
    account, before = _account.named(""), ourselves()
    assert account.user == os.geteuid() and _account.owner(str(tmp_path)).user == account.user
    with _account.acting(account):
        assert ourselves() == before


def test_another_user_makes_files_and_we_are_back_afterwards(tmp_path):
    needs.root()
    entry, before = pwd.getpwnam("nobody"), ourselves()
    account = _account.named("nobody")
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if "pytest-" in parent.name or "popen-" in parent.name:
            parent.chmod(0o755)
    with pytest.raises(PermissionError):
        with _account.acting(account):
            assert ourselves() == (entry.pw_uid, entry.pw_gid, [entry.pw_gid], entry.pw_dir)
            (tmp_path / "made").touch()
            (tmp_path / "made").chmod(0o600)
            os.open("/etc/shadow", os.O_RDONLY)
    assert ourselves() == before and _account.owner(str(tmp_path / "made")) == account


def test_a_program_runs_as_another_user_with_its_words_and_nothing_of_ours():
    needs.root()
    account, before = _account.named("nobody"), ourselves()
    program = "import os, sys; print(os.getresuid(), os.getresgid(), os.getgroups(), sys.argv[1:])"
    words = ["/usr/bin/python3", "-c", program, "it's", "", "-c"]
    done = subprocess.run(account.command(words), env={}, capture_output=True, text=True, check=True)
    ids = ((account.user,) * 3, (account.group,) * 3, list(account.groups), words[3:])
    assert done.stdout == f"{' '.join(map(str, ids))}\n" and ourselves() == before
    with _account.acting(account):
        assert account.command(words) == words


def test_who_is_not_here_cannot_be_meant(tmp_path):
    with pytest.raises(Refusal, match="no operating system user 'nowhere to be found'"):
        _account.named("nowhere to be found")


def test_only_root_becomes_another():
    needs.root()
    with _account.acting(_account.named("nobody")):
        with pytest.raises(Refusal, match=r"may not act as root\. Run it as root"):
            _account.named("root")


def test_a_folder_of_a_container_has_an_owner_whom_this_host_does_not_know(tmp_path):
    needs.root()
    os.chown(tmp_path, 54321, 54321)
    with pytest.raises(Refusal, match="the number 54321"):
        _account.owner(str(tmp_path))
