# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The model against hosts worked out by hand, and against what it promises for every host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._errors import Refusal
from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._settings import (
    tuned_host,
    tuning,
)

MB, GB, TB = 1024**2, 1024**3, 1024**4

NAMES = (
    "shared_buffers",
    "effective_cache_size",
    "work_mem",
    "maintenance_work_mem",
    "autovacuum_work_mem",
    "wal_buffers",
    "max_wal_size",
)

# Each with its arithmetic in MB. The budget: the memory times the share, less 10 % (64 to 1024) for the system, less 40 % (128
# for each process, to 4096 and 1024 for each further one) for Synapse. Then 90 % of it, less shared_buffers (1/4), wal_buffers
# (1/32 of those, to 16), maintenance_work_mem (1/16, to 2048), vacuums (three of 1/32, to 1024, from 17 on 2048), 3 for each
# connection and parallel worker and 9 for other processes, is divided by the uses of work_mem: the connections and parallel
# workers (one for each processor, to 8), times 3 (before 15: 2), to 256. Sizes from 256 MB on are whole 16 MB, from 16 MB on
# whole MB, from 1 MB on whole 64 kB.
HOSTS = [
    # 512 - 64 = 448; 403.2 - 112.0 - 3.5 - 28.0 - 3 x 14.0 - 21 x 3 - 9 = 145.7, by 63
    ({"memory": 512 * MB}, ("112MB", "336MB", "2368kB", "28MB", "14MB", "3584kB", "1GB")),
    # 512 - 64 - 204.8 = 243.2; 218.9 - 60.8 - 1.9 - 15.2 - 3 x 7.6 - 21 x 3 - 9 = 46.2, by 63
    ({"memory": 512 * MB, "synapse_on_host": True}, ("60MB", "182MB", "750kB", "15552kB", "7744kB", "1920kB", "1GB")),
    # 512 - 64 = 448; 403.2 - 112.0 - 3.5 - 28.0 - 3 x 14.0 - 14 x 3 - 9 = 166.7, by 42
    (
        {"memory": 512 * MB, "cpus": 4, "connections": 10, "storage": "hdd"},
        ("112MB", "336MB", "4032kB", "28MB", "14MB", "3584kB", "1GB"),
    ),
    # 640 - 64 - 256 = 320; 288.0 - 80.0 - 2.5 - 20.0 - 3 x 10.0 - 21 x 3 - 9 = 83.5, by 63
    ({"memory": 640 * MB, "synapse_on_host": True}, ("80MB", "240MB", "1344kB", "20MB", "10MB", "2560kB", "1GB")),
    # 1024 - 102.4 = 921.6; 829.4 - 230.4 - 7.2 - 57.6 - 3 x 28.8 - 21 x 3 - 9 = 375.8, by 63
    ({"memory": 1 * GB}, ("230MB", "688MB", "6080kB", "57MB", "28MB", "7360kB", "1GB")),
    # 1024 - 102.4 - 409.6 = 512; 460.8 - 128.0 - 4.0 - 32.0 - 3 x 16.0 - 21 x 3 - 9 = 176.8, by 63
    ({"memory": 1 * GB, "synapse_on_host": True}, ("128MB", "384MB", "2816kB", "32MB", "16MB", "4MB", "1GB")),
    # 1024 - 102.4 - 409.6 = 512; 460.8 - 128.0 - 4.0 - 32.0 - 3 x 16.0 - 24 x 3 - 9 = 167.8, by 72
    (
        {"memory": 1 * GB, "cpus": 4, "synapse_on_host": True, "server_version": 17},
        ("128MB", "384MB", "2368kB", "32MB", "16MB", "4MB", "1GB"),
    ),
    # 1024 - 102.4 - 409.6 = 512; 460.8 - 128.0 - 4.0 - 32.0 - 3 x 16.0 - 44 x 3 - 9 = 107.8, by 132
    (
        {"memory": 1 * GB, "cpus": 4, "synapse_on_host": True, "synapse_processes": 3, "connections": 40},
        ("128MB", "384MB", "836kB", "32MB", "16MB", "4MB", "1GB"),
    ),
    # 1536 - 153.6 - 614.4 = 768; 691.2 - 192.0 - 6.0 - 48.0 - 3 x 24.0 - 22 x 3 - 9 = 298.2, by 66
    ({"memory": 1536 * MB, "cpus": 2, "synapse_on_host": True}, ("192MB", "576MB", "4608kB", "48MB", "24MB", "6MB", "1GB")),
    # 2048 - 204.8 = 1843.2; 1658.9 - 460.8 - 14.4 - 115.2 - 3 x 57.6 - 22 x 3 - 9 = 820.7, by 66
    ({"memory": 2 * GB, "cpus": 2}, ("448MB", "1376MB", "12672kB", "115MB", "57MB", "14MB", "1GB")),
    # 2048 - 204.8 - 819.2 = 1024; 921.6 - 256.0 - 8.0 - 64.0 - 3 x 32.0 - 22 x 3 - 9 = 422.6, by 66
    ({"memory": 2 * GB, "cpus": 2, "synapse_on_host": True}, ("256MB", "768MB", "6528kB", "64MB", "32MB", "8MB", "1GB")),
    # 2048 - 204.8 - 819.2 = 1024; 921.6 - 256.0 - 8.0 - 64.0 - 3 x 32.0 - 22 x 3 - 9 = 422.6, by 44
    (
        {"memory": 2 * GB, "cpus": 2, "synapse_on_host": True, "server_version": 14},
        ("256MB", "768MB", "9792kB", "64MB", "32MB", "8MB", "1GB"),
    ),
    # 2048 - 204.8 - 819.2 = 1024; 921.6 - 256.0 - 8.0 - 64.0 - 3 x 32.0 - 24 x 3 - 9 = 416.6, by 72
    (
        {"memory": 2 * GB, "cpus": 4, "synapse_on_host": True, "server_version": 18, "storage": "network"},
        ("256MB", "768MB", "5888kB", "64MB", "32MB", "8MB", "1GB"),
    ),
    # 3072 - 307.2 - 1228.8 = 1536; 1382.4 - 384.0 - 12.0 - 96.0 - 3 x 48.0 - 52 x 3 - 9 = 581.4, by 156
    (
        {"memory": 3 * GB, "cpus": 2, "synapse_on_host": True, "connections": 50},
        ("384MB", "1152MB", "3776kB", "96MB", "48MB", "12MB", "1GB"),
    ),
    # 4096 - 409.6 = 3686.4; 3317.8 - 921.6 - 16.0 - 230.4 - 3 x 115.2 - 22 x 3 - 9 = 1729.2, by 66
    ({"memory": 4 * GB, "cpus": 2}, ("912MB", "2752MB", "26MB", "230MB", "115MB", "16MB", "1GB")),
    # 4096 - 409.6 = 3686.4; 3317.8 - 921.6 - 16.0 - 230.4 - 3 x 115.2 - 22 x 3 - 9 = 1729.2, by 44
    ({"memory": 4 * GB, "cpus": 2, "server_version": 14}, ("912MB", "2752MB", "39MB", "230MB", "115MB", "16MB", "1GB")),
    # 4096 - 409.6 - 1638.4 = 2048; 1843.2 - 512.0 - 16.0 - 128.0 - 3 x 64.0 - 22 x 3 - 9 = 920.2, by 66
    ({"memory": 4 * GB, "cpus": 2, "synapse_on_host": True}, ("512MB", "1536MB", "14272kB", "128MB", "64MB", "16MB", "1GB")),
    # 4096 - 409.6 - 1638.4 = 2048; 1843.2 - 512.0 - 16.0 - 128.0 - 3 x 64.0 - 64 x 3 - 9 = 794.2, by 192
    (
        {"memory": 4 * GB, "cpus": 4, "synapse_on_host": True, "synapse_processes": 4, "connections": 60},
        ("512MB", "1536MB", "4224kB", "128MB", "64MB", "16MB", "1GB"),
    ),
    # 4096 - 409.6 = 3686.4; 3317.8 - 921.6 - 16.0 - 230.4 - 3 x 115.2 - 202 x 3 - 9 = 1189.2, by 606
    ({"memory": 4 * GB, "cpus": 2, "connections": 200}, ("912MB", "2752MB", "1984kB", "230MB", "115MB", "16MB", "1GB")),
    # 6144 - 614.4 - 2457.6 = 3072; 2764.8 - 768.0 - 16.0 - 192.0 - 3 x 96.0 - 24 x 3 - 9 = 1419.8, by 72
    ({"memory": 6 * GB, "cpus": 4, "synapse_on_host": True}, ("768MB", "2304MB", "19MB", "192MB", "96MB", "16MB", "1GB")),
    # 8192 - 819.2 = 7372.8; 6635.5 - 1843.2 - 16.0 - 460.8 - 3 x 230.4 - 24 x 3 - 9 = 3543.3, by 72
    ({"memory": 8 * GB, "cpus": 4}, ("1840MB", "5520MB", "49MB", "448MB", "230MB", "16MB", "3GB")),
    # 4096 - 409.6 = 3686.4; 3317.8 - 921.6 - 16.0 - 230.4 - 3 x 115.2 - 24 x 3 - 9 = 1723.2, by 72
    ({"memory": 8 * GB, "cpus": 4, "share": 0.5}, ("912MB", "2752MB", "23MB", "230MB", "115MB", "16MB", "1GB")),
    # 2048 - 204.8 - 819.2 = 1024; 921.6 - 256.0 - 8.0 - 64.0 - 3 x 32.0 - 24 x 3 - 9 = 416.6, by 72
    (
        {"memory": 8 * GB, "cpus": 4, "share": 0.25, "synapse_on_host": True},
        ("256MB", "768MB", "5888kB", "64MB", "32MB", "8MB", "1GB"),
    ),
    # 8192 - 819.2 = 7372.8; 6635.5 - 1843.2 - 16.0 - 460.8 - 3 x 230.4 - 104 x 3 - 9 = 3303.3, by 312
    ({"memory": 8 * GB, "cpus": 4, "connections": 100}, ("1840MB", "5520MB", "10816kB", "448MB", "230MB", "16MB", "3GB")),
    # 8192 - 819.2 - 3276.8 = 4096; 3686.4 - 1024.0 - 16.0 - 256.0 - 3 x 128.0 - 24 x 3 - 9 = 1925.4, by 72
    ({"memory": 8 * GB, "cpus": 4, "synapse_on_host": True}, ("1GB", "3GB", "26MB", "256MB", "128MB", "16MB", "2GB")),
    # 8192 - 819.2 - 3276.8 = 4096; 3686.4 - 1024.0 - 16.0 - 256.0 - 3 x 128.0 - 84 x 3 - 9 = 1745.4, by 252
    (
        {"memory": 8 * GB, "cpus": 4, "synapse_on_host": True, "synapse_processes": 6, "connections": 80},
        ("1GB", "3GB", "7040kB", "256MB", "128MB", "16MB", "2GB"),
    ),
    # 8192 - 819.2 = 7372.8, at most 2048; 1843.2 - 512.0 - 16.0 - 128.0 - 3 x 64.0 - 24 x 3 - 9 = 914.2, by 72
    ({"memory": 8 * GB, "cpus": 4, "limit": 2 * GB}, ("512MB", "1536MB", "12992kB", "128MB", "64MB", "16MB", "1GB")),
    # 8192 - 819.2 - 3276.8 = 4096, at most 6144; 3686.4 - 1024.0 - 16.0 - 256.0 - 3 x 128.0 - 24 x 3 - 9 = 1925.4, by 72
    (
        {"memory": 8 * GB, "cpus": 4, "synapse_on_host": True, "limit": 6 * GB},
        ("1GB", "3GB", "26MB", "256MB", "128MB", "16MB", "2GB"),
    ),
    # 12288 - 1024 - 4096 = 7168; 6451.2 - 1792.0 - 16.0 - 448.0 - 3 x 224.0 - 26 x 3 - 9 = 3436.2, by 78
    (
        {"memory": 12 * GB, "cpus": 6, "synapse_on_host": True, "server_version": 16},
        ("1792MB", "5376MB", "44MB", "448MB", "224MB", "16MB", "3GB"),
    ),
    # 16384 - 1024 = 15360; 13824.0 - 3840.0 - 16.0 - 960.0 - 3 x 480.0 - 24 x 3 - 9 = 7487.0, by 72
    ({"memory": 16 * GB, "cpus": 4}, ("3840MB", "11520MB", "103MB", "960MB", "480MB", "16MB", "7GB")),
    # 16384 - 1024 - 4096 = 11264; 10137.6 - 2816.0 - 16.0 - 704.0 - 3 x 352.0 - 24 x 3 - 9 = 5464.6, by 72
    ({"memory": 16 * GB, "cpus": 4, "synapse_on_host": True}, ("2816MB", "8448MB", "75MB", "704MB", "352MB", "16MB", "5GB")),
    # 16384 - 1024 - 6553.6 = 8806.4; 7925.8 - 2201.6 - 16.0 - 550.4 - 3 x 275.2 - 108 x 3 - 9 = 3999.2, by 324
    (
        {"memory": 16 * GB, "cpus": 8, "synapse_on_host": True, "synapse_processes": 5, "connections": 100},
        ("2192MB", "6592MB", "12608kB", "544MB", "272MB", "16MB", "4GB"),
    ),
    # 16384 - 1024 = 15360; 13824.0 - 3840.0 - 16.0 - 960.0 - 3 x 480.0 - 508 x 3 - 9 = 6035.0, by 1524
    ({"memory": 16 * GB, "cpus": 8, "connections": 500}, ("3840MB", "11520MB", "4032kB", "960MB", "480MB", "16MB", "7GB")),
    # 24576 - 1024 - 5120 = 18432; 16588.8 - 4608.0 - 16.0 - 1152.0 - 3 x 576.0 - 38 x 3 - 9 = 8961.8, by 114
    (
        {"memory": 24 * GB, "cpus": 8, "synapse_on_host": True, "synapse_processes": 2, "connections": 30},
        ("4608MB", "13824MB", "78MB", "1152MB", "576MB", "16MB", "8GB"),
    ),
    # 32768 - 1024 = 31744; 28569.6 - 7936.0 - 16.0 - 1984.0 - 3 x 992.0 - 28 x 3 - 9 = 15564.6, by 84
    ({"memory": 32 * GB, "cpus": 8}, ("7936MB", "23808MB", "185MB", "1984MB", "992MB", "16MB", "8GB")),
    # 32768 - 1024 - 13107.2 = 18636.8; 16773.1 - 4659.2 - 16.0 - 1164.8 - 3 x 582.4 - 158 x 3 - 9 = 8702.9, by 474
    (
        {
            "memory": 32 * GB,
            "cpus": 8,
            "synapse_on_host": True,
            "synapse_processes": 10,
            "connections": 150,
            "server_version": 17,
        },
        ("4656MB", "13968MB", "18MB", "1152MB", "576MB", "16MB", "8GB"),
    ),
    # 16384 - 1024 - 4096 = 11264; 10137.6 - 2816.0 - 16.0 - 704.0 - 3 x 352.0 - 28 x 3 - 9 = 5452.6, by 84
    (
        {"memory": 32 * GB, "cpus": 16, "share": 0.5, "synapse_on_host": True},
        ("2816MB", "8448MB", "64MB", "704MB", "352MB", "16MB", "5GB"),
    ),
    # 65536 - 1024 = 64512; 58060.8 - 16128.0 - 16.0 - 2048.0 - 3 x 1024.0 - 28 x 3 - 9 = 36703.8, by 84
    ({"memory": 64 * GB, "cpus": 16}, ("16128MB", "48384MB", "256MB", "2GB", "1GB", "16MB", "8GB")),
    # 65536 - 1024 = 64512; 58060.8 - 16128.0 - 16.0 - 2048.0 - 3 x 2016.0 - 28 x 3 - 9 = 33727.8, by 84
    ({"memory": 64 * GB, "cpus": 16, "server_version": 17}, ("16128MB", "48384MB", "256MB", "2GB", "2016MB", "16MB", "8GB")),
    # 65536 - 1024 - 23552 = 40960; 36864.0 - 10240.0 - 16.0 - 2048.0 - 3 x 1280.0 - 258 x 3 - 9 = 19937.0, by 774
    (
        {
            "memory": 64 * GB,
            "cpus": 32,
            "synapse_on_host": True,
            "synapse_processes": 20,
            "connections": 250,
            "server_version": 18,
        },
        ("10GB", "30GB", "25MB", "2GB", "1280MB", "16MB", "8GB"),
    ),
    # 131072 - 1024 = 130048; 117043.2 - 32512.0 - 16.0 - 2048.0 - 3 x 1024.0 - 408 x 3 - 9 = 78162.2, by 1224
    (
        {"memory": 128 * GB, "cpus": 32, "connections": 400, "server_version": 16},
        ("32512MB", "97536MB", "63MB", "2GB", "1GB", "16MB", "8GB"),
    ),
    # 262144 - 1024 = 261120; 235008.0 - 65280.0 - 16.0 - 2048.0 - 3 x 2048.0 - 308 x 3 - 9 = 160587.0, by 924
    (
        {"memory": 256 * GB, "cpus": 64, "connections": 300, "server_version": 17},
        ("65280MB", "195840MB", "173MB", "2GB", "2GB", "16MB", "8GB"),
    ),
    # 524288 - 1024 = 523264; 470937.6 - 130816.0 - 16.0 - 2048.0 - 3 x 2048.0 - 1008 x 3 - 9 = 328880.6, by 3024
    (
        {"memory": 512 * GB, "cpus": 64, "connections": 1000, "server_version": 18},
        ("130816MB", "392448MB", "108MB", "2GB", "2GB", "16MB", "8GB"),
    ),
    # 1.04858e+06 - 1024 = 1.04755e+06; 942796.8 - 261888.0 - 16.0 - 2048.0 - 3 x 2048.0 - 208 x 3 - 9 = 672067.8, by 624
    (
        {"memory": 1024 * GB, "cpus": 64, "connections": 200, "server_version": 17},
        ("261888MB", "785664MB", "256MB", "2GB", "2GB", "16MB", "8GB"),
    ),
    # 1.04858e+06 - 1024 = 1.04755e+06; 942796.8 - 261888.0 - 16.0 - 2048.0 - 3 x 2048.0 - 2008 x 3 - 9 = 666667.8, by 6024
    (
        {"memory": 1024 * GB, "cpus": 128, "connections": 2000, "server_version": 18, "storage": "network"},
        ("261888MB", "785664MB", "110MB", "2GB", "2GB", "16MB", "8GB"),
    ),
]


def values(**host):
    return {name: setting.value for name, setting in tuning.settings(tuned_host.Host(**host)).items()}


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
    [(1, ("8", "1", "0", "0")), (2, ("8", "2", "1", "1")), (5, ("8", "5", "2", "2")), (32, ("32", "8", "4", "4"))],
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


@pytest.mark.parametrize(
    ("version", "cpus", "expected"), [(17, 64, None), (18, 1, "3"), (18, 16, "4"), (18, 64, "16"), (18, 512, "32")]
)
def test_workers_for_io_come_with_18(version, cpus, expected):
    assert values(memory=16 * GB, cpus=cpus, server_version=version).get("io_workers") == expected


FOUR = tuned_host.Host(memory=4 * GB, cpus=2)


@pytest.mark.parametrize(
    ("own", "name", "expected"),
    [
        # 3686.4: 3317.8 - 1024 - 16 - 230.4 - 345.6 - 75 = 1626.8, by 66
        ({"shared_buffers": "1GB"}, "work_mem", "24MB"),
        ({"SHARED_BUFFERS": "131072"}, "work_mem", "24MB"),
        # 3317.8 - 921.6 - 16 - 1024 - 345.6 - 75 = 935.6, by 66
        ({"maintenance_work_mem": "1GB"}, "work_mem", "14464kB"),
        # the vacuums take as much as maintenance: 3317.8 - 921.6 - 16 - 4 x 100 - 75 = 1905.2, by 66
        ({"maintenance_work_mem": "100MB", "autovacuum_work_mem": -1}, "work_mem", "28MB"),
        # 3317.8 - 921.6 - 16 - 230.4 - 4 x 230.4 - 76 = 1152.2, by 66: four vacuums that take what maintenance does
        ({"autovacuum_work_mem": "-1", "autovacuum_max_workers": 4}, "work_mem", "17MB"),
        # 3317.8 - 921.6 - 16 - 230.4 - 345.6 - 302 x 3 - 9 = 889.2, by 906
        ({"max_connections": 300}, "work_mem", "1004kB"),
        # 3317.8 - 921.6 - 16 - 230.4 - 345.6 - 75 = 1729.2, by 44
        ({"hash_mem_multiplier": 1.0}, "work_mem", "39MB"),
        # 3317.8 - 921.6 - 16 - 230.4 - 345.6 - 28 x 3 - 9 = 1711.2, by 84
        ({"max_parallel_workers": 8}, "work_mem", "20MB"),
        ({"shared_buffers": "6GB", "work_mem": "4MB"}, "max_wal_size", "8GB"),
        ({"shared_buffers": "6GB", "work_mem": "4MB"}, "huge_pages", "try"),
        ({"shared_buffers": "64MB"}, "wal_buffers", "2MB"),
        ({"wal_buffers": -1}, "shared_buffers", "912MB"),
    ],
)
def test_ones_own_values_are_counted(own, name, expected):
    found = tuning.settings(FOUR, own)
    assert found[name].value == expected
    assert {key: found[key].value for key in own} == own


def test_ones_own_values_say_what_they_stand_for():
    found = tuning.settings(FOUR, {"shared_buffers": "1GB", "log_min_duration_statement": "5s"})
    assert found["shared_buffers"].reason == "Set by the play (computed 912MB)."
    assert found["shared_buffers"].context == "restart"
    assert found["log_min_duration_statement"].comment == "Set by the play.\nSource: the administrator."
    assert "work_mem" in found
    # The server takes case for nothing: the module postgres_settings refuses the second one.
    assert {"work_mem", "WORK_MEM"} <= set(tuning.settings(FOUR, {"work_mem": "4MB", "WORK_MEM": "5MB"}))


@given(st.integers(512 * MB, TB), st.integers(1, 1024), st.integers(14, 18), st.booleans())
def test_every_host_from_512_mb_to_1_tb_has_settings_for_synapses_default_pool(memory, cpus, version, synapse):
    found = tuning.settings(tuned_host.Host(memory=memory, cpus=cpus, server_version=version, synapse_on_host=synapse))
    for setting in found.values():
        assert setting.context in ("reload", "restart") and setting.source.startswith("manual, ")
        assert len(setting.comment.splitlines()) == 2 and setting.comment.startswith(setting.reason)


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
        ({"synapse_processes": 0}, "number of synapse_processes"),
        ({"limit": 100 * MB}, "a limit of 100 MB of its control group"),
        ({"server_version": 13}, "14 or newer"),
        ({"storage": "tape"}, "ssd, hdd, network"),
        ({"memory": 191 * MB}, "larger share"),
        ({"memory": -4 * GB}, "from 64 MB to 16 TB"),
        ({"memory": 17 * TB}, "from 64 MB to 16 TB"),
        ({"memory": 8 * GB, "limit": 100 * MB}, "MemoryMax"),
        ({"memory": 512 * MB, "share": 0.2}, "larger share"),
        ({"memory": 512 * MB, "connections": 5000}, "cp_max"),
    ],
)
def test_what_makes_no_sense_is_refused(host, words):
    with pytest.raises(Refusal, match=words):
        tuning.settings(tuned_host.Host(**{"memory": 4 * GB, **host}))
