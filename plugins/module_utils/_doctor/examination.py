# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An examination: every check carried out, each by itself, and what that came to, for machines and for people."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, Mapping, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import (
    SEVERITIES,
    Check,
    NotApplicable,
    Unseen,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.patient import Patient, unanswered
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal, system_refusal

try:
    import psycopg2
except ImportError:
    psycopg2 = None  # type: ignore[assignment]

# How wide a line of the report for people may be.
_WIDTH = 110

_METRIC = "synapse_postgres_doctor"


def examine(patient: Patient, checks: Sequence[Check], limits: Mapping[str, Mapping[str, float]], before: dict) -> dict[str, Any]:
    """Return what ``checks`` come to with a ``patient``: ``{findings, unseen, not_applicable, healthy}``.

    ``findings`` are dicts with check, severity, title, found, why, remedy and source, the worst first; ``unseen`` and
    ``not_applicable`` give a reason by a check's name; ``healthy`` are names. ``limits`` are those of checks by name, in place of
    a check's own. ``before`` is what another point of view came to: what that one could not see, what did not apply there, and
    what every point of view counts for is looked at again.
    """
    found: list[dict[str, Any]] = list(before.get("findings") or [])
    unseen: dict[str, str] = {}
    not_applicable: dict[str, str] = dict(before.get("not_applicable") or {})
    healthy: list[str] = list(before.get("healthy") or [])
    done = {finding["check"] for finding in found} | set(healthy)
    for check in checks:
        if check.name in done and not (check.everywhere and check.name in healthy):
            continue
        patient.limits = {**check.limits, **limits.get(check.name, {})}
        findings, reason = _carry_out(check, patient)
        if isinstance(reason, NotApplicable):
            not_applicable[check.name] = str(reason)
        elif reason is None or findings:
            not_applicable.pop(check.name, None)
        if isinstance(reason, Unseen) and check.name not in not_applicable:
            unseen[check.name] = str(reason)
        healthy = [name for name in healthy if name != check.name]
        healthy += [] if findings or reason else [check.name]
        found += findings
    found.sort(key=lambda finding: SEVERITIES.index(finding["severity"]))
    return {"findings": found, "unseen": unseen, "not_applicable": not_applicable, "healthy": healthy}


def _carry_out(check: Check, patient: Patient) -> tuple[list[dict[str, Any]], Unseen | NotApplicable | None]:
    """Return what a ``check`` finds, and why it could not look, or not at all; what was found before that counts."""
    findings: list[dict[str, Any]] = []
    try:
        for finding in check.examine(patient):
            findings.append(_described(check, dataclasses.asdict(finding)))
    except (Unseen, NotApplicable) as reason:
        return findings, reason
    except Refusal as refusal:
        return findings, Unseen(refusal.found)
    except OSError as error:
        return findings, Unseen(system_refusal(error).found)
    except Exception as error:  # one check's failure hides no other's finding
        return findings, Unseen(_failure(error, patient))
    return findings, None


def report(result: Mapping[str, Any]) -> list[str]:
    """Return the ``result`` of examine() as lines for people: the findings by severity, then what could not be seen."""
    lines: list[str] = []
    for finding in result["findings"]:
        lines += _wrapped(f"{finding['severity'].upper():8}  ", f"{finding['title']}: {_sentence(finding['found'])}")
        lines += _wrapped("     why  ", finding["why"])
        # A command is to be copied as it stands, so its line is not broken.
        lines += [f"      do  {finding['remedy']}", ""]
    count = [f"{sum(one['severity'] == severity for one in result['findings'])} {severity}" for severity in SEVERITIES]
    lines.append(f"{', '.join(count)}; {len(result['healthy'])} checks found nothing wrong.")
    for name, reason in sorted(result["unseen"].items()):
        lines += _wrapped("not seen  ", f"{name}: {_sentence(reason)}")
    return lines


def metrics(result: Mapping[str, Any]) -> str:
    """Return the ``result`` of examine() in Prometheus' text format: a number by severity, and each check's state.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    findings = f"{_METRIC}_findings"
    lines = [f"# HELP {findings} What is wrong with Synapse's PostgreSQL.", f"# TYPE {findings} gauge"]
    for severity in SEVERITIES:
        lines.append(f'{findings}{{severity="{severity}"}} {sum(one["severity"] == severity for one in result["findings"])}')
    healthy = f"{_METRIC}_check_healthy"
    lines += [f"# HELP {healthy} Whether a check that was carried out found nothing.", f"# TYPE {healthy} gauge"]
    states = {**dict.fromkeys(result["healthy"], 1), **{one["check"]: 0 for one in result["findings"]}}
    lines += [f'{healthy}{{check="{name}"}} {state}' for name, state in sorted(states.items())]
    return "\n".join([*lines, ""])


def _described(check: Check, finding: dict[str, Any]) -> dict[str, Any]:
    return {"check": check.name, "title": check.title, "why": check.why, "source": check.source, **finding}


def _failure(error: Exception, patient: Patient) -> str:
    if psycopg2 is not None and isinstance(error, psycopg2.Error):
        return str(unanswered(error, patient.connected_role))
    return f"the check itself failed, which is a fault of this collection ({type(error).__name__})"


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."
