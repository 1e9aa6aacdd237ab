# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The model against hosts worked out by hand, and against what it promises for every host."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _tuning
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal

MB, GB, TB = 1024**2, 1024**3, 1024**4

NAMES = ("shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem", "autovacuum_work_mem", "max_wal_size")

# Each with its arithmetic in MB: budget; the rest is 90 % of it less buffers, maintenance and three vacuums, divided by
# three times (connections + processors). Sizes from 256 MB on are whole 16 MB, from 16 MB on whole MB, below 64 kB.
HOSTS = [
    # 512 - 64 = 448; 403.2 - 112 - 28 - 42 = 221.2, by 63
    ({"memory": 512 * MB, "cpus": 1}, ("112MB", "336MB", "3584kB", "28MB", "14MB", "1GB")),
    # 512 - 64 - 204.8 = 243.2; 218.88 - 60 - 15.19 - 22.69 = 121, by 63
    ({"memory": 512 * MB, "cpus": 1, "synapse_on_host": True}, ("60MB", "182MB", "1920kB", "15552kB", "7744kB", "1GB")),
    # 1024 - 102.4 = 921.6; 829.44 - 230 - 57 - 84 = 458.44, by 63
    ({"memory": GB, "cpus": 1}, ("230MB", "688MB", "7424kB", "57MB", "28MB", "1GB")),
    # 2048 - 204.8 = 1843.2; 1658.88 - 448 - 115 - 171 = 924.88, by 66
    ({"memory": 2 * GB, "cpus": 2}, ("448MB", "1376MB", "14MB", "115MB", "57MB", "1GB")),
    # 2048 - 204.8 - 819.2 = 1024; 921.6 - 256 - 64 - 96 = 505.6, by 66
    ({"memory": 2 * GB, "cpus": 2, "synapse_on_host": True}, ("256MB", "768MB", "7808kB", "64MB", "32MB", "1GB")),
    # 4096 - 409.6 = 3686.4; 3317.76 - 912 - 230 - 345 = 1830.76, by 66
    ({"memory": 4 * GB, "cpus": 2}, ("912MB", "2752MB", "27MB", "230MB", "115MB", "1GB")),
    # the same, a hash table takes work_mem once in 14: by 44
    ({"memory": 4 * GB, "cpus": 2, "server_version": 14}, ("912MB", "2752MB", "41MB", "230MB", "115MB", "1GB")),
    # half of 8192 is 4096, as before, by 72
    ({"memory": 8 * GB, "cpus": 4, "share": 0.5}, ("912MB", "2752MB", "25MB", "230MB", "115MB", "1GB")),
    # 8192 - 819.2 = 7372.8; 6635.52 - 1840 - 448 - 690 = 3657.52, by 72
    ({"memory": 8 * GB, "cpus": 4}, ("1840MB", "5520MB", "50MB", "448MB", "230MB", "3GB")),
    # the same, by 312
    ({"memory": 8 * GB, "cpus": 4, "connections": 100}, ("1840MB", "5520MB", "11968kB", "448MB", "230MB", "3GB")),
    # 8192 - 819.2 - 3276.8 = 4096; 3686.4 - 1024 - 256 - 384 = 2022.4, by 72
    ({"memory": 8 * GB, "cpus": 4, "synapse_on_host": True}, ("1GB", "3GB", "28MB", "256MB", "128MB", "2GB")),
    # 16384 - 1024 = 15360; 13824 - 3840 - 960 - 1440 = 7584, by 72
    ({"memory": 16 * GB, "cpus": 4}, ("3840MB", "11520MB", "105MB", "960MB", "480MB", "7GB")),
    # 16384 - 1024 - 4096 = 11264; 10137.6 - 2816 - 704 - 1056 = 5561.6, by 72
    ({"memory": 16 * GB, "cpus": 4, "synapse_on_host": True}, ("2816MB", "8448MB", "77MB", "704MB", "352MB", "5GB")),
    # 32768 - 1024 = 31744; 28569.6 - 7936 - 1984 - 2976 = 15673.6, by 84
    ({"memory": 32 * GB, "cpus": 8}, ("7936MB", "23808MB", "186MB", "1984MB", "992MB", "8GB")),
    # 65536 - 1024 = 64512; 58060.8 - 16128 - 2048 - 3072 = 36812.8, by 108 is 340: the cap
    ({"memory": 64 * GB, "cpus": 16}, ("16128MB", "48384MB", "256MB", "2GB", "1GB", "8GB")),
    # the same, a vacuum may take 64512 / 32 in 17
    ({"memory": 64 * GB, "cpus": 16, "server_version": 17}, ("16128MB", "48384MB", "256MB", "2GB", "2016MB", "8GB")),
    # 1048576 - 1024 = 1047552; 942796.8 - 261888 - 2048 - 6144 = 672716.8, by 792 is 849: the cap
    (
        {"memory": TB, "cpus": 64, "connections": 200, "server_version": 17},
        ("261888MB", "785664MB", "256MB", "2GB", "2GB", "8GB"),
    ),
]

hosts = st.builds(
    _tuning.Host,
    memory=st.integers(512 * MB, TB),
    share=st.floats(0.05, 1.0),
    connections=st.integers(1, 2000),
    cpus=st.integers(1, 256),
    storage=st.sampled_from(sorted(_tuning.STORAGE)),
    synapse_on_host=st.booleans(),
    server_version=st.integers(14, 18),
)


def values(**host):
    return {name: setting.value for name, setting in _tuning.settings(_tuning.Host(**host)).items()}


def divided(host):
    """Return the Budget of ``host``; a host that is refused is none of the test's."""
    try:
        return _tuning.divide(host)
    except Refusal:
        assume(False)


@pytest.mark.parametrize(("host", "expected"), HOSTS)
def test_hosts_worked_out_by_hand(host, expected):
    assert tuple(values(**host)[name] for name in NAMES) == expected


@pytest.mark.parametrize(
    ("connections", "expected"), [(1, None), (20, None), (90, None), (91, "101"), (100, "110"), (500, "510")]
)
def test_max_connections_is_raised_when_the_default_does_not_suffice(connections, expected):
    assert values(memory=16 * GB, connections=connections).get("max_connections") == expected


@pytest.mark.parametrize(("storage", "expected"), [("ssd", ("1.1", "200")), ("hdd", ("4", "2")), ("network", ("1.1", "300"))])
def test_storage(storage, expected):
    found = values(memory=GB, storage=storage)
    assert (found["random_page_cost"], found["effective_io_concurrency"]) == expected


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [(1, ("8", "1", "0", "0")), (2, ("8", "2", "1", "1")), (5, ("8", "5", "2", "2")), (32, ("32", "32", "4", "4"))],
)
def test_processes(cpus, expected):
    found = values(memory=8 * GB, cpus=cpus)
    assert expected == (
        found["max_worker_processes"],
        found["max_parallel_workers"],
        found["max_parallel_workers_per_gather"],
        found["max_parallel_maintenance_workers"],
    )


def test_huge_pages_are_tried_from_2_gb_of_shared_buffers_on():
    assert "huge_pages" not in values(memory=8 * GB)
    assert values(memory=16 * GB)["huge_pages"] == "try"


def test_what_the_server_chooses_well_is_left_to_it():
    assert "wal_buffers" not in values(memory=64 * GB)


@given(hosts)
def test_the_worst_case_stays_within_90_percent_of_the_budget(host):
    budget = divided(host)
    processes = host.connections + host.cpus
    factor = 2 if host.server_version == 14 else 3
    worst = budget.shared_buffers + 3 * budget.autovacuum_work_mem + budget.maintenance_work_mem
    worst += processes * factor * budget.work_mem
    assert worst == budget.envelope <= 0.9 * budget.budget
    assert budget.budget + budget.system + budget.synapse == budget.available <= host.memory * host.share


@given(hosts, st.integers(0, TB))
def test_more_memory_never_means_less_shared_buffers_and_never_above_40_percent(host, more):
    budget = divided(host)
    larger = _tuning.divide(_tuning.Host(**{**host.__dict__, "memory": host.memory + more}))
    assert budget.shared_buffers <= larger.shared_buffers
    assert 0.2 * budget.budget <= budget.shared_buffers <= 0.4 * budget.budget


@given(st.integers(512 * MB, TB), st.integers(14, 18), st.booleans())
def test_every_host_from_512_mb_to_1_tb_has_settings_for_synapses_default_pool(memory, version, synapse):
    found = _tuning.settings(_tuning.Host(memory=memory, server_version=version, synapse_on_host=synapse))
    assert all(setting.reason.endswith(".") and setting.context in ("reload", "restart") for setting in found.values())


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"share": 0.0}, "above 0"),
        ({"share": -0.5}, "above 0"),
        ({"share": 1.01}, "up to 1"),
        ({"share": float("nan")}, "up to 1"),
        ({"connections": 0}, "number of connections"),
        ({"connections": 262140}, "number of connections"),
        ({"cpus": 0}, "number of cpus"),
        ({"server_version": 13}, "14 or newer"),
        ({"storage": "tape"}, "ssd, hdd, network"),
        ({"memory": 191 * MB}, "larger share"),
        ({"memory": 512 * MB, "share": 0.2}, "larger share"),
        ({"memory": 512 * MB, "connections": 5000}, "cp_max"),
    ],
)
def test_what_makes_no_sense_is_refused(host, words):
    with pytest.raises(Refusal, match=words):
        _tuning.settings(_tuning.Host(**{"memory": 4 * GB, **host}))


@pytest.mark.parametrize(("count", "text"), [(64 * 1024, "64kB"), (1536 * MB, "1536MB"), (2 * GB, "2GB"), (256 * MB, "256MB")])
def test_size(count, text):
    assert _tuning.size(count) == text
