# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The playbooks of repairs on a real homeserver that does not start any more."""

import pytest

from support import conversation, playbooks


@pytest.fixture(scope="module")
def site(tmp_path_factory, homeserver, any_cluster):
    """A Site whose homeserver was moved by the playbooks site and port, and runs."""
    folder = tmp_path_factory.mktemp("repair")
    made = playbooks.Site(folder, any_cluster, playbooks.copied(homeserver[0], folder / "synapse"))
    made.server.start()
    made.play("site")
    refused = made.play("repair_sequences", fails=True)
    assert not refused.missing("names the engine sqlite3", "matrixops.synapse_postgres.port"), refused.output[-2000:]
    made.play("port")
    yield made
    made.close()


def test_a_synapse_that_refuses_to_start_for_its_sequences_starts_after_the_repair(site, homeserver):
    position = "SELECT stream_id FROM stream_positions WHERE stream_name = 'receipts'"
    before = site.rows("SELECT last_value FROM receipts_sequence")
    refused = site.play("repair_sequences", fails=True)
    assert not refused.missing("sessions open", "Stop Synapse and all its workers"), refused.output[-2000:]
    site.server.stop()
    site.rows(
        "INSERT INTO stream_positions VALUES ('receipts', 'master', 5000)"
        " ON CONFLICT (stream_name, instance_name) DO UPDATE SET stream_id = 5000"
    )
    with pytest.raises((RuntimeError, TimeoutError)):
        site.server.start()
    site.server.stop()

    foretold = site.play("repair_sequences", "--check")
    assert not foretold.missing("receipts_sequence: from", "to 5000", "Nothing was changed (check mode)"), foretold.output[-2000:]
    assert site.rows("SELECT last_value FROM receipts_sequence") == before
    mended = site.play("repair_sequences")
    assert mended.changed == 1 and not mended.missing("to 5000", "Synapse can be started again")
    assert (5000,) in site.rows(position)
    again = site.play("repair_sequences")
    assert again.changed == 0 and not again.missing("Nothing to mend")
    site.server.start()
    conversation.wait_for(site.server.url)


def test_an_empty_user_directory_is_made_by_a_restarted_synapse(site, homeserver):
    assert not site.play("repair_user_directory").missing("Nothing to mend")
    site.rows("TRUNCATE user_directory, user_directory_search; UPDATE user_directory_stream_pos SET stream_id = NULL")
    assert not site.play("repair_user_directory", "--check").missing("3 users would be added (check mode)")
    assert not site.play("repair_user_directory").missing("3 users are being added")
    conversation.require_found(site.server.url, homeserver[1])
    assert not site.play("repair_user_directory").missing("Nothing to mend")


def test_an_invalid_index_is_made_anew_while_synapse_runs(site):
    assert not site.play("repair_indexes").missing("every index is valid")
    site.rows("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'events_ts'::regclass")
    assert not site.play("repair_indexes", "--check").missing("REINDEX INDEX CONCURRENTLY public.events_ts", "(check mode)")
    assert site.play("repair_indexes").changed == 1
    assert site.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = 'events_ts'::regclass") == [(True,)]


def test_tables_that_belong_to_somebody_else_are_given_to_synapse(site):
    site.rows(f"CREATE ROLE {site.name}_old")
    try:
        site.rows(f"ALTER TABLE events OWNER TO {site.name}_old")
        assert not site.play("repair_ownership", "--check").missing("TABLE public.events")
        assert not site.play("repair_ownership").missing("TABLE public.events")
        assert site.rows("SELECT tableowner FROM pg_tables WHERE tablename = 'events'") == [(site.name,)]
        again = site.play("repair_ownership")
        assert again.changed == 0 and not again.missing("Nothing to mend")
    finally:
        site.rows(f"REASSIGN OWNED BY {site.name}_old TO {site.name}; DROP ROLE {site.name}_old")
