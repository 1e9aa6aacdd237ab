# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# Every target does its own set-up, under .cache; `make clean` takes all of it away again. `make test` runs the STAGES, each of
# which runs alone as well: lint, sanity, unit, integration, newest and oldest (ansible-core), molecule. Beside them there are
# setup (what they need), plugins (what runs on each ansible-core), faults, doctor, demo, demo-stop and bench (see the README), and docs,
# which makes the pages in docs/checks.
# PYTHON is the Python (>= 3.11) that makes the virtualenv; SCENARIO is the scenario `make molecule` runs.

PYTHON ?= python3
SCENARIO ?= default
STAGES = lint sanity unit integration newest oldest molecule

export SCENARIO

.PHONY: test setup faults doctor plugins demo demo-stop bench docs clean $(STAGES)

test:
	@$(PYTHON) tests/stages $(STAGES)

setup faults doctor plugins $(STAGES):
	@$(PYTHON) tests/stages $@

demo:
	@SQLITE='$(SQLITE)' CONFIG='$(CONFIG)' $(PYTHON) -u tests/demo start

demo-stop:
	@$(PYTHON) -u tests/demo stop

docs: setup
	@PYTHONPATH=.cache/collections:tests .cache/venv/bin/python tests/support/pages.py

bench:
	@$(PYTHON) -u tests/benchmarks $(ONLY)

# What a demonstration runs is ended first: without its files nothing could end it any more.
clean:
	-@$(PYTHON) -u tests/demo stop
	rm -rf .cache .demo .ansible .pytest_cache .ruff_cache .hypothesis
