# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""synapse_indexes on indexes that were left invalid, by Synapse's own role."""

import pytest

from support import move as moves


@pytest.fixture
def broken(tmp_path, homeserver, any_cluster):
    """A Move with tables whose indexes are invalid: one whose making failed, and what a REINDEX left of itself."""
    with moves.prepared(tmp_path, homeserver[0], any_cluster) as found:
        found.rows(f"SET ROLE {moves.USER}; CREATE TABLE people (a int); CREATE UNIQUE INDEX once ON people (a)")
        for statement in (
            'CREATE INDEX "odd %s name" ON people (a)',
            "CREATE INDEX once_ccnew ON people (a)",
            "UPDATE pg_index SET indisvalid = false WHERE indrelid = 'people'::regclass AND NOT indisunique",
        ):
            found.rows(f"SET search_path = public; {statement}; ALTER TABLE people OWNER TO {moves.USER}")
        yield found


def states(move) -> dict:
    return dict(move.rows("SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'people'::regclass"))


def test_each_is_made_anew_and_what_a_reindex_left_is_dropped(run, broken):
    foretold = run("synapse_indexes", broken.login, check=True)
    assert foretold["changed"] and len(foretold["statements"]) == 2 and not all(states(broken).values())
    done = run("synapse_indexes", broken.login)
    assert done["statements"] == foretold["statements"]
    assert states(broken) == {"once": True, '"odd %s name"': True}
    assert not run("synapse_indexes", broken.login)["changed"]


def test_a_unique_index_over_equal_rows_is_refused_and_no_row_is_lost(run, broken):
    state = "UPDATE pg_index SET indisready = {0}, indisvalid = false WHERE indexrelid = 'once'::regclass"
    broken.rows(state.format("false"))
    broken.rows("INSERT INTO people VALUES (1), (1)")
    refused = run("synapse_indexes", broken.login)
    assert refused["failed"] and "rows of public.people are equal" in refused["msg"], refused
    assert broken.rows("SELECT a FROM people") == [(1,), (1,)]
    broken.rows("DELETE FROM people WHERE ctid = (SELECT min(ctid) FROM people)")
    assert run("synapse_indexes", broken.login)["changed"] and all(states(broken).values())
    assert set(states(broken)) == {"once", '"odd %s name"'}
