# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Servers that speak another language than English."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from support import clusters, needs


@contextlib.contextmanager
def speaking(installation: clusters.Installation, locale: str):
    """Yield a running cluster of Debian's whose messages are in the language of ``locale``, such as de_DE."""
    language = locale.partition("_")[0]
    words = pathlib.Path(f"/usr/share/locale/{language}/LC_MESSAGES/postgres-{installation.major}.mo")
    plain = pathlib.Path("/usr/lib/locale/C.utf8")
    needs.need(words.exists() and plain.exists(), f"this server's messages are not here in the language {language}")
    # gettext goes by a locale's name alone, so any will do that is called so: Debian's `locales` need not be installed.
    with tempfile.TemporaryDirectory(prefix="synapse-postgres-") as folder, _environment("LOCPATH", folder):
        for name in (f"{locale}.utf8", "C.utf8"):
            shutil.copytree(plain, pathlib.Path(folder) / name)
        os.chmod(folder, 0o755)
        with clusters.running(installation, settings=f"lc_messages = '{locale}.UTF-8'") as cluster:
            yield cluster


@contextlib.contextmanager
def _environment(name: str, value: str):
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
