# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only a server of the test's own shows: prepared transactions, which a server has to be set up for."""

import contextlib
import time

import pytest

from support import clusters
from support import move as moves
from support.ward import Ward


@pytest.fixture
def own(tmp_path, homeserver):
    """A Ward on a server of the test's own, without Synapse's tables."""
    with clusters.running(clusters.installations()[0], settings="max_prepared_transactions = 5") as cluster:
        with moves.prepared(tmp_path, homeserver[0], cluster) as found:
            yield Ward(found)


def test_a_prepared_transaction_is_found_and_rolled_back_by_the_command(own):
    name = "it's left"
    with contextlib.closing(own.cluster.connect(dbname=own.move.name)) as connection:
        connection.autocommit = False
        connection.tpc_begin(connection.xid(0, name, "branch"))
        connection.cursor().execute("CREATE TABLE left_behind ()")
        connection.tpc_prepare()
    limits = {"prepared_transactions": {"critical": 0}}
    [finding] = own.only("prepared_transactions", limits=limits)
    assert finding["severity"] == "critical"
    own.heal(finding["remedy"])
    own.healthy(limits=limits)


def test_a_damaged_page_is_found_once_the_server_has_read_it(tmp_path, homeserver):
    with clusters.running(clusters.installations()[0], "--data-checksums") as cluster:
        with moves.prepared(tmp_path, homeserver[0], cluster) as found:
            damaged = Ward(found)
            found.rows("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS a")
            damaged.healthy()
            [(place,)] = found.rows("SELECT pg_relation_filepath('lost')")
            cluster.stop()
            with (cluster.data / place).open("r+b") as stream:
                stream.seek(4000)
                stream.write(b"something else")
            cluster.start()
            with pytest.raises(Exception, match="invalid page"):
                found.rows("SELECT sum(a) FROM lost")
            time.sleep(0.5)
            [finding] = damaged.only("checksum_failures")
            assert finding["severity"] == "critical" and found.name in finding["found"]


def test_archiving_that_fails_is_found_and_well_again_by_itself_once_it_works(tmp_path, homeserver):
    settings = "archive_mode = on\narchive_command = 'false'"
    with clusters.running(clusters.installations()[0], settings=settings) as cluster:
        with moves.prepared(tmp_path, homeserver[0], cluster) as found:
            archived = Ward(found)
            cluster.rows("SELECT pg_switch_wal()")
            _wait(cluster, "failed_count > 0")
            [finding] = archived.only("archiving")
            assert finding["severity"] == "critical" and "false" not in finding["found"]
            cluster.set("archive_command", "true")
            cluster.rows("SELECT pg_switch_wal()")
            _wait(cluster, "archived_count > 0")
            archived.healthy()


def test_an_index_of_another_collation_version_is_found_and_made_anew_by_the_command(own):
    if own.cluster.major < 15:
        pytest.fail("the newest server of the system is older than 15")
    name = own.move.name
    own.cluster.rows(f"DROP DATABASE {name}")
    own.cluster.rows(
        f"CREATE DATABASE {name} OWNER synapse TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'"
    )
    own.cluster.rows("UPDATE pg_database SET datcollversion = '1' WHERE datname = %s", name)
    [finding] = own.only("collation_version", skip=["locale", "durability"])
    own.heal(finding["remedy"])
    own.healthy(skip=["locale", "durability"])


def _wait(cluster, condition: str) -> None:
    """Return when the archiver's statistics meet ``condition``; TimeoutError when they do not."""
    deadline = time.monotonic() + 60
    while not cluster.rows(f"SELECT 1 FROM pg_stat_archiver WHERE {condition}"):
        if time.monotonic() > deadline:
            raise TimeoutError(condition)
        time.sleep(0.2)
