# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
export OMP_WAIT_POLICY ?= passive

.PHONY: venv demo test test-all check clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	scripts/demo

test: venv
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not slow and not gpu"

test-all: venv
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

check: venv
	scripts/check

clean:
	rm -rf .venv runs/demo dist
