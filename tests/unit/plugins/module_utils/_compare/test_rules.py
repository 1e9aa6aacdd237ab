# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of a move: read from Synapse's answer and from records of earlier releases, and which tables they carry."""

import json

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._compare.rules import Rules

# As the first releases recorded it, with what is not of the rules.
RECORDED = {
    "version": "1.140.0",
    "schema_version": 92,
    "append_only": ["events", "rooms"],
    "ignored": ["user_directory"],
    "boolean": {"users": ["shadow_banned"]},
    "engine": "copy",
    "again": True,
    "laid": "state",
}


def test_a_record_of_an_earlier_release_is_read():
    rules = Rules.from_json(RECORDED)
    assert (rules.version, rules.schema_version, rules.append_only) == ("1.140.0", 92, ("events", "rooms"))
    assert (rules.boolean, rules.carrying, rules.asked) == ({"users": ("shadow_banned",)}, None, "")


def test_rules_come_back_from_json_as_they_were():
    rules = Rules.from_json({**RECORDED, "autoincrement": ["a"], "carrying": "c", "fingerprint": "f", "asked": "p"})
    assert Rules.from_json(json.loads(json.dumps(rules.to_json()))) == rules


def test_tables_are_carried_and_missed_by_the_rules():
    rules = Rules.from_json(RECORDED)
    sqlite = [
        "events",
        "rooms",
        "users",
        "user_directory",
        "schema_version",
        "sqlite_sequence",
        "user_directory_stream_pos",
        "own",
    ]
    postgres = ["events", "users", "user_directory", "schema_version", "sqlite_sequence", "user_directory_stream_pos", "more"]
    assert rules.carried(sqlite, postgres) == {"events", "users"}
    assert rules.missing(sqlite, postgres) == ["rooms"]
