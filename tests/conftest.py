# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What holds for every test."""

from hypothesis import settings

# How long an example takes is the machine's matter, and no test's.
settings.register_profile("at leisure", deadline=None)
settings.load_profile("at leisure")
