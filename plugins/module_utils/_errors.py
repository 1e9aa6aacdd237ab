# Copyright: the matrixops.synapse_postgres contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception that a step raises when it will not, or cannot, do what was asked."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class Refusal(Exception):
    """What was found and what to do about it, as a person should read it.

    ``found`` is a sentence that names the path, line, table or SQL it is about; ``remedy`` is a sentence that says what
    to do next. Neither may hold a secret. Further ``facts`` become keys of the failed task's result.
    """

    def __init__(self, found: str, remedy: str, **facts: object) -> None:
        super().__init__(f"{found} {remedy}")
        self.found, self.remedy, self.facts = found, remedy, facts


@contextlib.contextmanager
def told_to(module: AnsibleModule) -> Iterator[None]:
    """Turn a Refusal, or the operating system's refusal, within the block into the module's ``fail_json``.

    SIGTERM, by which the action plugins end a step on Ctrl-C, leaves the block as an exception does.
    """
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), **refusal.facts)
    except OSError as error:
        module.fail_json(msg=str(system_refusal(error)))
    finally:
        signal.signal(signal.SIGTERM, before)


def system_refusal(error: OSError) -> Refusal:
    """Return the Refusal for the operating system's ``error``."""
    where = f" on {error.filename}" if error.filename else ""
    return Refusal(
        f"The operating system refused{where}: {error.strerror or error}.",
        "Check the path and the permissions of the user that the task runs as.",
    )


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
