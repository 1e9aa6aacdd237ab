# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The examination as a whole: a healthy homeserver, two points of view, and a server that lets nobody in."""

import pytest

from support import move as moves


def test_a_healthy_homeserver_is_found_healthy_by_its_administrator_and_by_synapse(ward):
    as_administrator = ward.examine()
    assert as_administrator["findings"] == [], as_administrator["report"]
    assert as_administrator["unseen"] == {}, as_administrator["unseen"]
    assert not as_administrator["changed"] and as_administrator["report"][-1].startswith("0 critical, 0 warning, 0 notice; ")
    ward.healthy(ward.synapse)


def test_what_one_could_not_see_another_looks_at_and_no_more(ward):
    blind = ward.examine(config=[], synapse_python="")
    both = ward.examine(ward.synapse, before=blind)
    assert not set(both["unseen"]) - set(blind["unseen"]) and both["findings"] == []
    assert set(blind["healthy"]) <= set(both["healthy"])


def test_what_did_not_apply_where_one_looked_was_not_looked_at_where_it_does(ward):
    """No interpreter of Synapse's is on the database's host; its client library and its tables' version were never examined."""
    blind = ward.examine(config=[], synapse_python="")
    assert {"client_library", "schema_version"} <= set(blind["not_applicable"])
    both = ward.examine(ward.synapse, before=blind)
    assert {"client_library", "schema_version"} <= set(both["healthy"]) - set(both["not_applicable"])
    ward.break_("UPDATE schema_version SET version = version - 1")
    assert [one["check"] for one in ward.examine(ward.synapse, before=blind)["findings"]] == ["schema_version"]


def test_a_server_that_lets_nobody_in_is_one_finding_and_the_rest_is_unseen(ward):
    result = ward.examine({**ward.synapse, "login_password": "another"})
    assert [(one["check"], one["severity"]) for one in result["findings"]] == [("connection", "critical")]
    assert "prepared_transactions" in result["unseen"] and moves.PASSWORD not in result["output"]
    assert any(line.startswith("not seen") for line in result["report"])


def test_nothing_can_be_written_while_it_looks(ward):
    before = ward.move.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_database, pg_stat_user_tables")
    ward.examine()
    assert before == ward.move.rows("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_database, pg_stat_user_tables")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip": ["no_such"]}, "no check called no_such"),
        ({"limits": {"no_such": {"warning": 1}}}, "no check called no_such"),
        ({"limits": {"connection": {"warning": 1}}}, "connection has no limits"),
        ({"limits": {"prepared_transactions": {"bad": 1}}}, "'bad', which is no severity"),
        ({"limits": {"prepared_transactions": {"warning": "soon"}}}, "'soon'"),
        ({"limits": {"prepared_transactions": 3}}, "no mapping"),
    ],
)
def test_a_check_or_a_limit_that_does_not_exist_is_refused(run, ward, options, words):
    refused = run("synapse_doctor_info", {**ward.administrator, **options})
    assert refused["failed"] and words in refused["msg"], refused["msg"]
