# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a rule of pg_hba.conf has to stand so that it is effective, and a file's text with rules put in or taken out."""

from __future__ import annotations

import dataclasses
import functools
import re

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access import hba
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._access.hba_rule import Rule, Selector
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal


@dataclasses.dataclass(frozen=True)
class Placement:
    """What was done about a given rule: its ``rule`` as a line, the number of that in the file, and the ``action``.

    Placed: present, inserted, moved or replaced. Removed: removed, with the number that the first such line had, or absent.
    """

    rule: str
    line: int | None
    action: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A file's new text, a Placement per given rule, and what a person should know.

    ``gone`` holds the numbers, in the old text, of lines that are no longer there as they were.
    """

    text: str
    placed: list[Placement]
    warnings: list[str]
    gone: set[int]


def place(text: str, rules: list[Rule]) -> Outcome:
    """Return ``text`` with each of ``rules`` effective: before every line that would treat one of its connections otherwise.

    The first line that matches a connection decides (manual, section 21.1), so a rule goes directly before the first line
    that could match with another effect, or at the end. A line for the very same connections is rewritten where it
    stands, or moved when it stands too late. Lines that reject a part of a rule's connections stay before it. Rules that
    are put in keep the order in which they are given.
    """
    _require_reachable(rules)
    before = hba.parse(text)
    lines, newline = list(before), _newline(text)
    distinct = _distinct(rules)
    settled: dict[int, tuple[hba.Line, str]] = {}
    following = None
    for index in reversed(range(len(distinct))):
        earlier = [rule.selector for rule in distinct[:index]]
        following, action = _place_one(lines, distinct[index], earlier, following, newline)
        settled[index] = following, action
    numbers = _numbers(lines)
    placed = []
    for rule in rules:
        line, action = settled[_index(distinct, rule)]
        placed.append(Placement(hba.rule_text(rule), numbers[line], action))
    warnings = _warnings(lines, [(rule, *settled[index]) for index, rule in enumerate(distinct)], numbers)
    return Outcome(hba.render(lines), placed, warnings, _gone(before, lines))


def remove(text: str, rules: list[Rule]) -> Outcome:
    """Return ``text`` without the lines that have the selector of one of ``rules``, and its method and options if it has any."""
    before = hba.parse(text)
    lines, placed = list(before), []
    for rule in rules:
        removed = [line for line in before if line.rule and _is_to_be_removed(line.rule, rule)]
        lines = [line for line in lines if line not in removed]
        number, action = (removed[0].number, "removed") if removed else (None, "absent")
        placed.append(Placement(hba.rule_text(rule), number, action))
    return Outcome(hba.render(lines), placed, [], _gone(before, lines))


def _is_to_be_removed(found: Rule, rule: Rule) -> bool:
    """Tell whether ``found`` is what ``rule``, perhaps without method and options, wants removed."""
    return (
        rule.selector == found.selector
        and (rule.method is None or rule.effect[0] == found.effect[0])
        and (rule.options is None or rule.effect[1] == found.effect[1])
    )


def _place_one(
    lines: list[hba.Line], rule: Rule, earlier: list[Selector], following: hba.Line | None, newline: str
) -> tuple[hba.Line, str]:
    """Make ``rule`` effective in ``lines``, before ``following`` where that is free to choose; return its line and action."""
    position, latest = _positions(lines, rule, earlier)
    existing = [line for line in lines if line.rule and line.rule.selector == rule.selector]
    same = [line for line in existing if line.rule and line.rule.effect == rule.effect]
    in_time = [line for line in existing if line in lines[:latest]]
    if in_time and in_time[0] in same:
        return in_time[0], "present"
    if in_time:
        rewritten = _with_effect(in_time[0], rule)
        lines[lines.index(in_time[0])] = rewritten
        for line in same:
            lines.remove(line)
        return rewritten, "replaced"
    for line in existing:
        lines.remove(line)
    old = next(iter(same or existing), None)
    if old is None or old.unfinished:
        placed = hba.parse(hba.rule_text(rule) + newline)[0]
    else:
        placed = old if old in same else _with_effect(old, rule)
        placed.raw += "" if placed.raw.endswith("\n") else newline
    _insert(lines, _in_given_order(lines, rule, position, following), placed, newline)
    return placed, "moved" if existing else "inserted"


def _positions(lines: list[hba.Line], rule: Rule, earlier: list[Selector]) -> tuple[int, int]:
    """Return before which line ``rule`` belongs, and before which one it counts at the latest, as indexes.

    It belongs before the first line that could take its connections from it; but behind an exception to it that comes
    after that, where nothing of the rule is lost so. It is not looked further than there are exceptions, or the rule itself.
    """
    rivals = (index for index, line in enumerate(lines) if _must_precede(rule, line, earlier))
    first = latest = next(rivals, len(lines))
    rules = [(index, line.rule) for index, line in enumerate(lines) if index >= first and line.rule]
    exceptions = [index for index, other in rules if other.is_exception_to(rule)]
    existing = [index for index, other in rules if other.selector == rule.selector]
    end = max(exceptions + existing, default=-1)
    while latest <= end and _is_preempted(lines[latest].rule, rule, lines[:latest]):
        latest = next(rivals, len(lines))
    return next((index + 1 for index in reversed(exceptions) if index < latest), first), latest


def _must_precede(rule: Rule, line: hba.Line, earlier: list[Selector]) -> bool:
    """Tell whether ``rule`` counts only before ``line``, which is not one of the ``earlier`` rules given with it."""
    if not line.rule:
        return bool(line.fields)
    if line.rule.selector == rule.selector or line.rule.selector in earlier:
        return False
    return line.rule.could_preempt(rule)


def _is_preempted(rival: Rule | None, rule: Rule, before: list[hba.Line]) -> bool:
    """Tell whether what ``rival`` could take of the rule's connections never gets to it: a line before it has it all.

    That line treats them as the rule does, or is an exception to it.
    """
    if rival is None:
        return False
    shared = rule.narrowed_to(rival)
    others = [other.rule for other in before if other.rule]
    return any((other.effect == rule.effect or other.is_exception_to(rule)) and other.covers(shared) for other in others)


def _in_given_order(lines: list[hba.Line], rule: Rule, position: int, following: hba.Line | None) -> int:
    """Return where to put ``rule``: at ``position``, or before ``following`` unless that would pass an exception to it."""
    wanted = lines.index(following) if following else position
    passed = lines[wanted:position]
    passes_exception = any(line.rule and line.rule.is_exception_to(rule) for line in passed)
    return position if wanted > position or passes_exception else wanted


def _insert(lines: list[hba.Line], index: int, line: hba.Line, newline: str) -> None:
    """Put ``line`` at ``index``; at the end, first end the line before it, which may lack its end or want a continuation."""
    if lines and index == len(lines):
        last = lines[-1]
        last.raw += "" if last.raw.endswith("\n") else newline
        last.raw += newline if last.unfinished else ""
        last.unfinished = False
    lines.insert(index, line)


def _with_effect(line: hba.Line, rule: Rule) -> hba.Line:
    """Return ``line`` with the method and options of ``rule``; its spacing, comment and end stay."""
    start, end = line.effect_span
    return hba.parse(line.raw[:start] + hba.effect_text(rule) + line.raw[end:])[0]


def _require_reachable(rules: list[Rule]) -> None:
    """Raise Refusal when one of ``rules`` takes all connections of a later one and treats them differently."""
    for index, rule in enumerate(rules):
        for later in range(index + 1, len(rules)):
            if rule.covers(rules[later]) and rule.effect != rules[later].effect:
                raise Refusal(
                    f"Rule {later + 1} ({_on_one_line(rules[later])}) would never be used: "
                    f"rule {index + 1} ({_on_one_line(rule)}) comes first and matches all of its connections.",
                    "Put the narrower rule first, or leave one of them out.",
                )


def _distinct(rules: list[Rule]) -> list[Rule]:
    """Return ``rules`` without repetitions, in their order."""
    return [rule for index, rule in enumerate(rules) if _index(rules, rule) == index]


def _index(rules: list[Rule], rule: Rule) -> int:
    """Return where the first of ``rules`` stands that means the same as ``rule``."""
    return next(i for i, other in enumerate(rules) if (other.selector, other.effect) == (rule.selector, rule.effect))


def _numbers(lines: list[hba.Line]) -> dict[hba.Line, int]:
    """Return the number of the first physical line of each of ``lines`` as they stand now."""
    numbers, number = {}, 1
    for line in lines:
        numbers[line] = number
        number += line.raw.count("\n")
    return numbers


def _gone(before: list[hba.Line], after: list[hba.Line]) -> set[int]:
    return {line.number for line in set(before).difference(after)}


def _warnings(lines: list[hba.Line], placed: list[tuple[Rule, hba.Line, str]], numbers: dict[hba.Line, int]) -> list[str]:
    """Return what a person should know about ``placed`` rules: open doors, exceptions in front, lines put out of use."""
    selectors = {rule.selector for rule, _line, _action in placed}
    foreign = [(numbers[line], line.rule) for line in lines if line.rule and line.rule.selector not in selectors]
    warnings = []

    @functools.lru_cache(maxsize=None)
    def is_covered(index: int) -> bool:
        """Tell whether lines before this one have taken all of its connections all along."""
        return any(other.covers(foreign[index][1]) for _number, other in foreign[:index])

    for rule, line, action in placed:
        if rule.method == "trust":
            warnings.append(f"The rule '{_on_one_line(rule)}' lets these connections in without any proof of who they are.")
        is_new = action in ("inserted", "moved")
        for index, (number, other) in enumerate(foreign):
            is_behind = number > numbers[line]
            remark = (is_new and _loss(rule, other)) if is_behind else _exception(rule, other)
            if remark and not (is_behind and is_covered(index)):
                warnings.append(f"Line {number} ({_on_one_line(other)}) {remark.format(_on_one_line(rule))}")
    return warnings


def _exception(rule: Rule, other: Rule) -> str:
    """Return what is to be said of ``other``, which stands before ``rule``."""
    return "rejects a part of what the rule '{}' lets in; it was left in front of it." if other.is_exception_to(rule) else ""


def _loss(rule: Rule, other: Rule) -> str:
    """Return what is to be said of ``other``, before which ``rule`` was put."""
    rejects = other.method == "reject"
    if not rule.conflicts_with(other) or (rejects and other.covers(rule)):
        return ""
    if rejects:
        return (
            "may have rejected connections that the rule '{}', now before it, lets in. "
            "Move it before that rule if it is to reject them still."
        )
    return "is out of use: the rule '{}' stands before it and matches all of its connections." if rule.covers(other) else ""


def _on_one_line(rule: Rule) -> str:
    """Return the rule on one line with single blanks, for a message."""
    return re.sub(" +", " ", hba.masked(hba.rule_text(rule)))


def _newline(text: str) -> str:
    """Return the line end that most lines of ``text`` have."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
