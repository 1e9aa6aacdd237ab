# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a check is, and what it may come to: findings, nothing that applies here, or nothing that could be seen."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Callable, Iterator, Mapping

if TYPE_CHECKING:
    from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient

# Worst first. A critical finding keeps Synapse from working or endangers its data; a warning will, if it is left; a notice is
# worth knowing.
SEVERITIES = ("critical", "warning", "notice")


class Unseen(Exception):
    """Why a check could not see what it needs, as a sentence."""


class NotApplicable(Exception):
    """Why a check has nothing to look at here, as a sentence."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong, as a sentence, how bad it is, and the sentence that says what mends it, its command in backticks."""

    severity: str
    found: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that may be wrong. ``examine`` yields what it finds of a patient, or raises Unseen or NotApplicable.

    ``title`` names what is looked at, ``why`` says in sentences why it matters, ``source`` where the rule is from (a manual's
    section, a file of Synapse's, an issue). ``limits`` are numbers from which on it finds something, by severity, in ``unit``.
    """

    name: str
    title: str
    why: str
    source: str
    examine: Callable[[Patient], Iterator[Finding]]
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unit: str = ""
    everywhere: bool = False


def graded(value: float, limits: Mapping[str, float], falling: bool = False) -> str | None:
    """Return the worst severity whose limit ``value`` has reached, None where it has reached none.

    With ``falling``, less is worse.
    """
    for severity in SEVERITIES:
        if severity in limits and (value <= limits[severity] if falling else value >= limits[severity]):
            return severity
    return None
