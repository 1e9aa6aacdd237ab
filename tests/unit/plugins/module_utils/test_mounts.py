# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

import pytest

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils import _mounts

MOUNTINFO = rb"""61 49 254:0 / / rw,relatime - ext4 /dev/vda rw
62 61 0:25 / /srv/on\040tmpfs ro,nosuid - tmpfs none ro
63 61 254:1 /@data /srv/data rw - btrfs /dev/vdb rw,subvol=/@data
64 63 254:0 /backup /srv/data/homeserver.db rw - ext4 /dev/vda rw
65 61 254:2 / /srv/twice rw - ext4 /dev/vdc rw
66 65 254:3 / /srv/twice rw - ext4 /dev/vdd rw
"""


@pytest.mark.parametrize(
    ("path", "device", "inside"),
    [
        ("/homeserver.db", "254:0", "/homeserver.db"),
        ("/srv/homeserver.db", "254:0", "/srv/homeserver.db"),
        ("/srv/on tmpfs/x.db", "0:25", "/x.db"),
        ("/srv/on tmpfs beside/x.db", "254:0", "/srv/on tmpfs beside/x.db"),
        ("/srv/data/x.db", "254:1", "/@data/x.db"),
        ("/srv/data/homeserver.db", "254:0", "/backup"),
        ("/srv/data/homeserver.db-wal", "254:1", "/@data/homeserver.db-wal"),
        ("/srv/twice/x.db", "254:3", "/x.db"),
    ],
)
def test_a_file_is_where_the_deepest_and_last_mount_has_it(path, device, inside):
    assert _mounts.locate(_mounts.parsed(MOUNTINFO), path) == (device, inside)
