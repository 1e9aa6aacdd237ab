# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All checks, in the order in which they are carried out; a new one is added here, and its page follows from it."""

from __future__ import annotations

from typing import Any, Sequence

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.check import SEVERITIES, Check
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor.checks import (
    archiving,
    autovacuum,
    background_updates,
    blocked_sessions,
    checksum_failures,
    client_library,
    collation_version,
    configuration,
    connection,
    connection_limit,
    dead_rows,
    disk_space,
    duplicates,
    durability,
    encryption,
    hba_rule,
    idle_in_transaction,
    indexes,
    invalid_hba_lines,
    invalid_settings,
    keepalives,
    leftovers,
    locale,
    ownership,
    password,
    pending_restart,
    prepared_transactions,
    read_only,
    replication_slots,
    schema_version,
    search_path,
    sequences,
    server_version,
    statistics,
    unsafe_locale_allowed,
    unvalidated_constraints,
    user_directory,
    wraparound,
)
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

CHECKS: tuple[Check, ...] = (
    connection.CHECK,
    client_library.CHECK,
    configuration.CHECK,
    server_version.CHECK,
    schema_version.CHECK,
    locale.CHECK,
    collation_version.CHECK,
    unsafe_locale_allowed.CHECK,
    duplicates.CHECK,
    ownership.CHECK,
    search_path.CHECK,
    password.CHECK,
    hba_rule.CHECK,
    connection_limit.CHECK,
    keepalives.CHECK,
    encryption.CHECK,
    read_only.CHECK,
    invalid_hba_lines.CHECK,
    durability.CHECK,
    invalid_settings.CHECK,
    pending_restart.CHECK,
    autovacuum.CHECK,
    statistics.CHECK,
    dead_rows.CHECK,
    wraparound.CHECK,
    sequences.CHECK,
    indexes.CHECK,
    unvalidated_constraints.CHECK,
    background_updates.CHECK,
    user_directory.CHECK,
    idle_in_transaction.CHECK,
    blocked_sessions.CHECK,
    prepared_transactions.CHECK,
    replication_slots.CHECK,
    archiving.CHECK,
    checksum_failures.CHECK,
    disk_space.CHECK,
    leftovers.CHECK,
)


def without(skipped: Sequence[str]) -> list[Check]:
    """Return the checks but for those named ``skipped``; Refusal for a name that no check has."""
    _require_known(skipped)
    return [check for check in CHECKS if check.name not in skipped]


def require_limits(limits: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return ``limits`` as numbers by a check's name and severity; Refusal for what is none."""
    _require_known(list(limits))
    known = {check.name: check for check in CHECKS}
    found: dict[str, dict[str, float]] = {}
    for name, given in limits.items():
        if not known[name].limits:
            raise Refusal(f"The check {name} has no limits that could be set.", "Take it out of limits.")
        if not isinstance(given, dict) or not given:
            raise Refusal(f"limits.{name} is no mapping of severities to numbers.", f"Write it as {dict(known[name].limits)}.")
        found[name] = {}
        for severity, number in given.items():
            if severity not in SEVERITIES:
                raise Refusal(f"limits.{name} has {severity!r}, which is no severity.", f"There are {', '.join(SEVERITIES)}.")
            try:
                found[name][severity] = float(number)
            except (TypeError, ValueError):
                raise Refusal(
                    f"limits.{name}.{severity} is {number!r}.",
                    f"Give a number, in {known[name].unit or 'the unit of the check'}.",
                ) from None
    return found


def _require_known(names: Sequence[str]) -> None:
    known = [check.name for check in CHECKS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refusal(f"There is no check called {', '.join(map(str, unknown))}.", f"There are {', '.join(known)}.")
