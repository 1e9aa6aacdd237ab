# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages of the documentation that are made from what they are about: one for each check of the doctor's."""

import pathlib

from ansible_collections.matrixops.synapse_postgres.plugins.module_utils._doctor import catalogue

ROOT = pathlib.Path(__file__).parents[2]
CHECKS = ROOT / "docs" / "checks"


def checks() -> dict[pathlib.Path, str]:
    """Return the text of each check's page, and of their index, by its path."""
    index = [
        "# Checks",
        "",
        "What the role `synapse_doctor` and the module `synapse_doctor_info` look at.",
        "",
        "| check | looks at |",
        "|---|---|",
    ]
    found = {}
    for check in sorted(catalogue.CHECKS, key=lambda check: check.name):
        index.append(f"| [{check.name}]({check.name}.md) | {check.title} |")
        lines = [f"# {check.name}", "", f"**{check.title}.** {check.why}", ""]
        if check.limits:
            lines += [f"It finds something from these limits on ({check.unit}):", "", "| severity | limit |", "|---|---|"]
            lines += [f"| {severity} | {number:g} |" for severity, number in check.limits.items()]
            example = ", ".join(f"{severity}: {number:g}" for severity, number in check.limits.items())
            lines += ["", f"Others are set by `synapse_doctor_limits: {{{check.name}: {{{example}}}}}`.", ""]
        lines += [f"It is left out by `synapse_doctor_skip: [{check.name}]`.", "", f"Source: {check.source}.", ""]
        found[CHECKS / f"{check.name}.md"] = "\n".join(lines)
    found[CHECKS / "README.md"] = "\n".join([*index, ""])
    return found


def write() -> None:
    """Write the pages, and remove those of checks that are no more."""
    CHECKS.mkdir(exist_ok=True)
    pages = checks()
    for path in set(CHECKS.glob("*.md")) - set(pages):
        path.unlink()
    for path, text in pages.items():
        path.write_text(text)


if __name__ == "__main__":
    write()
