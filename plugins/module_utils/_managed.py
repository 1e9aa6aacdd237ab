# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who else writes a configuration file: another manager, which will put its own text over ours.

It is told by where the file is, by what its head says of the whole file, and by what one manager alone writes. What a person
says in a comment of something else is no sign, and neither is the head of a file of this collection's.
"""

from __future__ import annotations

import dataclasses
import json
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

_THIS_COLLECTION = "matrixops.synapse_postgres"

# Where a change belongs, by the manager; for those that are not here, see _elsewhere().
_INSTEAD = {
    "Patroni": "Change it in Patroni's configuration, under postgresql (patronictl edit-config, or each member's patroni.yml).",
    "CloudNativePG": "Change it in spec.postgresql of the Cluster resource.",
    "NixOS": "Change it in the system's NixOS configuration, and rebuild that (nixos-rebuild switch).",
    "Guix": "Change it in the system's Guix configuration, and reconfigure that.",
    "Kubernetes": "Change it in the ConfigMap or Secret that the file is mounted from.",
    "matrix-docker-ansible-deploy": "Change it in the vars.yml of that playbook (matrix_synapse_database_*), and run it.",
    "YunoHost": "Let YunoHost's application synapse, which lives on PostgreSQL, look after its database.",
}

# Places from which files are linked or mounted that nobody can change in place: Nix's and Guix's stores, and a volume of
# Kubernetes', whose files are links to ..data and so into a folder named by the moment of its last change.
_PLACES = {
    "NixOS": re.compile(r"^/nix/store/"),
    "Guix": re.compile(r"^/gnu/store/"),
    "Kubernetes": re.compile(r"/\.\.(data|\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+)/"),
}

# What one manager alone writes, which says nothing in a head: its file (all of the path) and a line of it.
_WRITTEN = {
    # cloudnative-pg/cloudnative-pg, pkg/postgres/configuration.go, hbaTemplateString.
    "CloudNativePG": (r".*/pg_hba\.conf", r"^hostssl[ \t]+replication[ \t]+streaming_replica[ \t]+all[ \t]+cert\b"),
    # spantaleev/matrix-docker-ansible-deploy, roles/custom/matrix-synapse/templates/synapse/homeserver.yaml.j2.
    "matrix-docker-ansible-deploy": (r".*/synapse/config/homeserver\.yaml", r"^pid_file: /homeserver\.pid$"),
    # YunoHost-Apps/synapse_ynh, conf/homeserver.yaml: every such homeserver asks YunoHost's LDAP.
    "YunoHost": (r"/etc/matrix-synapse[^/]*/homeserver\.yaml", r"^[^#\n]*dc=yunohost,dc=org"),
}

# Those whose name is a sign after a verb that people use of themselves, too (written by, maintained by).
_KNOWN = (
    "ansible|awx|puppet|chef|cinc|salt(?:stack)?|cfengine|rudder|terraform|opentofu|pulumi|nix(?:os)?|guix|patroni|spilo|stolon"
    "|cloudnativepg|kubernetes|helm|argo ?cd|flux|plesk|cpanel|whm|directadmin|ispconfig|virtualmin|yunohost|confd"
    "|consul-template|cloud-init|pyinfra|autobase|pigsty|coolify|dokku|cloudron|truenas|unraid"
)
_SUBJECT = r"(?:(?:this|the) )?(?:(?:whole |entire )?(?:configuration |config )?(?:file|configuration|config)(?: here)? )?"
_ADVERB = r"(?:(?:automatically|auto-?|being|entirely|fully|centrally) ?)*"
_BY = r"(?: automatically)?(?: and [a-z]+(?: off)?)?,? (?:by|with|using|through|from|via) (?:the |our )?"
_START = r"(?:^|[.!:] ?|\bwarning |\battention |\bnotice |\bcaution )"

# The head's sentences that tell of a manager, as _words() leaves them. Group ``name`` is the manager's, if it is told.
_SIGNS = [
    re.compile(rf"{_START}(?P<name>ansible) managed\b(?! block)", re.IGNORECASE),
    re.compile(r"\{\{ ?(?P<name>ansible)_managed ?\}\}", re.IGNORECASE),
    re.compile(
        rf"{_START}{_SUBJECT}(?:is |was |has been )?{_ADVERB}managed{_BY}(?!hand\b|me\b|us\b|nobody\b|no one\b|people\b)"
        r"(?P<name>[\w-]+)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"{_START}{_SUBJECT}(?:is |was |has been )?{_ADVERB}(?:maintained|controlled|deployed|generated|created|written"
        rf"|rendered|built|installed|dropped off|provisioned){_BY}(?P<name>{_KNOWN})\b",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:changes?|edits?|modifications?|customi[sz]ations?|it|file)\b[^.!]{0,60}?"
        r"\b(?:will|would|is going to|are going to|do|does) (?:all |then |again |automatically |always |just )?"
        r"(?:(?:be |get )(?:overwritten|overridden|lost|discarded|reverted|erased|undone|regenerated)"
        r"|not (?:persist|survive|last))"
        rf"(?: by (?:the )?(?P<name>{_KNOWN})\b)?(?! (?:if|when|unless) )",
        re.IGNORECASE,
    ),
    re.compile(
        rf"{_START}(?:please )?(?:do not|don'?t|never) (?:edit|modify|change|touch)"
        r"(?: (?:this|the)(?: config| configuration)? file| it| this)?(?: manually| by hand| directly| here)?"
        r"(?: ?[.!:;]| because| as it| since|$)",
        re.IGNORECASE,
    ),
]

# The server's own head of postgresql.auto.conf, which says the like of people.
_SERVERS = "ALTER SYSTEM command"

_BLOCK = re.compile(r"^[#;]+ *(?P<edge>BEGIN|END)\b(?P<name>.*\bMANAGED BLOCK\b.*)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Manager:
    """Who writes a file: its ``name``, the ``sign`` by which it is told, where to change it ``instead``.

    ``is_final`` is True for a place where a file cannot be changed at all.
    """

    name: str
    sign: str
    instead: str
    is_final: bool = False


def manager(path: str, text: str, patroni: str | None = None) -> Manager | None:
    """Return who else writes the file at ``path``, which has its links followed and holds ``text``; None for nobody.

    ``patroni`` is the content of the file patroni.dynamic.json in the server's data directory, if ``path`` is a server's
    pg_hba.conf and there is such a file.
    """
    for name, place in _PLACES.items():
        if place.search(path):
            return Manager(name, f"it is {path}", _INSTEAD[name], is_final=True)
    found = _by_head(text)
    if found is None and _sets_rules(patroni):
        sign = "its cluster's configuration (patroni.dynamic.json) has postgresql.pg_hba"
        return Manager("Patroni", sign, _INSTEAD["Patroni"])
    if found is None:
        for name, (paths, line) in _WRITTEN.items():
            match = re.fullmatch(paths, path) and re.search(line, text, re.MULTILINE)
            if match:
                return Manager(name, f"line {text.count(chr(10), 0, match.start()) + 1} is one that it writes", _INSTEAD[name])
    return found


def block(text: str, number: int) -> Manager | None:
    """Return who writes the block of lines that the line ``number``, from 1, of ``text`` is in; None where it is in none.

    Such a block is what Ansible's blockinfile and its like look after in a file that is otherwise somebody else's.
    """
    opened: tuple[int, str] | None = None
    for at, line in enumerate(text.splitlines()[:number], 1):
        edge = _BLOCK.match(line.strip())
        if edge:
            opened = (at, line.strip()) if edge["edge"].upper() == "BEGIN" else None
    if opened is None or _THIS_COLLECTION in opened[1]:
        return None
    name = "Ansible" if "ansible" in opened[1].lower() else "another program"
    return Manager(name, f"line {number} is in the block that begins on line {opened[0]} ({opened[1]})", _elsewhere(name))


def refuse(path: str, found: Manager, loss: str) -> Refusal:
    """Return the Refusal to change the file at ``path``, which is ``found``'s; ``loss`` tells what would be lost."""
    words = f"{path} is looked after by {found.name}: {found.sign}."
    if found.is_final:
        return Refusal(f"{words} It cannot be changed in its place.", found.instead)
    return Refusal(
        f"{words} It will be overwritten, and {loss}.",
        f"{found.instead} Or have it written all the same: allow_managed_file: true (in the roles: "
        "synapse_postgres_allow_managed_files: true).",
    )


def warning(path: str, found: Manager) -> str:
    """Return the warning for a change of the file at ``path`` that was made although it is ``found``'s."""
    return f"{path} is looked after by {found.name}: {found.sign}. What was written there lasts until that writes it again."


def _by_head(text: str) -> Manager | None:
    """Return whom the head of ``text`` tells of: the comments before anything else."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = line.strip()
        if line and line != "---" and not line.startswith(("#", ";", "//")):
            break
        if _THIS_COLLECTION in line or _SERVERS in line:
            return None
        words = _words(line)
        for sign in _SIGNS:
            match = sign.search(words)
            if match:
                found.setdefault((match.groupdict().get("name") or "").lower(), f"its line {number} says '{words[:120]}'")
    if not found:
        return None
    # A head that forbids changes in one line often names the manager in another.
    key = next(filter(None, found), "")
    name = _spelt(key) if key else "another program"
    return Manager(name, found[key], _INSTEAD.get(name) or _elsewhere(name))


def _words(line: str) -> str:
    """Return what a comment says, without the ornaments around it."""
    return " ".join(re.sub(r"^[#;/*=\-\s]+|[#*=\-\s]+$", "", line).split())


def _spelt(name: str) -> str:
    """Return the manager's ``name``, told in small letters, as it spells itself."""
    known = {"nix": "NixOS", "nixos": "NixOS", "salt": "Salt", "saltstack": "Salt", "spilo": "Patroni", "yunohost": "YunoHost"}
    return known.get(name) or (name.capitalize() if re.fullmatch(_KNOWN, name) else name)


def _elsewhere(name: str) -> str:
    """Return where to make a change, for a manager that has no place of its own in _INSTEAD."""
    return f"Make the change where {'that' if name == 'another program' else name} takes the file's content from."


def _sets_rules(patroni: str | None) -> bool:
    """Tell whether Patroni's dynamic configuration has rules, which it writes into pg_hba.conf when it loads them next.

    It does not where the parameter hba_file is given (Patroni's documentation, YAML Configuration Settings, pg_hba).
    """
    try:
        found = json.loads(patroni or "{}")["postgresql"]
        return bool(found.get("pg_hba")) and "hba_file" not in (found.get("parameters") or {})
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
