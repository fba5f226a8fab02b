# `make demo`: a language model tells a story through generated hardware, under Verilator.
# `make boards`: every board built twice, checked and compared byte for byte; takes about ten minutes.
# `make boards-test`: host and virtual board under PYNQ 3.0.1, 3.1.2 (Python 3.10) and 4.0.0 (Python 3.12).
# `make board-walk`: the quick start of a KV260, walked through on a virtual board in a board's own Python, and done wrong.
# `make test`: linters, type checker and the everyday suite of tests.
# `make regress`: what proves the same at larger size, or takes minutes; under three hours.
# `make coverage`: which branches of the host's code the tests take, package by package.
# `make coverage-rtl`: which lines of the units' Verilog the tests take, and which bits they toggle.
# `make verify-report`: build/verify/index.html, the test plan with the results that are there.
# `make mutate-host`: faults planted in the host's code, and whether its tests find them; takes the better part of an hour.
# `make dist`: the wheel, in dist/; `pip install "dist/NAME.whl[sim]"` installs it.
# `make notebooks`: a copy of the notebooks in build/notebooks, opened in the browser.
# Each prepares a virtual environment in $(VENV) first and says what the system lacks.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= Once upon a time
TOKENS ?= 200
SEED ?= 1
# Length of `make fuzz`; models, memories and passes on each of its builds.
SECONDS ?= 3600
CASES ?= 16
# Environments of `make boards-test`: build/boards/NAME; all if none is named.
ENVIRONMENTS ?=
# Test workers; each may run one simulator.
JOBS ?= 2
# Results of tests, and the report made of them.
VERIFY := build/verify

BIN := $(VENV)/bin

.PHONY: demo test regress coverage coverage-rtl verify-report boards boards-test board-walk dist notebooks
.PHONY: fuzz mutate mutate-host prove fuzz-parsers audit lint check-system clean
demo: $(VENV)/.installed-sim
	$(BIN)/hwgen run stories --prompt "$(PROMPT)" --max-new-tokens $(TOKENS) --temperature 0.7 --top-p 0.95 --seed $(SEED)

test: $(VENV)/.installed-dev
	@date +%s > $(VENV)/.began
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n $(JOBS) --dist worksteal --durations=15 --junitxml=$(VERIFY)/test.xml
	@echo "make test took $$(($$(date +%s) - $$(cat $(VENV)/.began))) s"

regress: $(VENV)/.installed-dev
	@date +%s > $(VENV)/.began
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m regress -v --durations=0 --junitxml=$(VERIFY)/regress.xml
	@echo "make regress took $$(($$(date +%s) - $$(cat $(VENV)/.began))) s"

# Simulations of single units run no host code and would only take their time.
coverage: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(JOBS) --dist worksteal --cov --cov-report= tests --ignore tests/hw
	$(BIN)/coverage json -q -o $(VERIFY)/coverage-lines.json
	$(BIN)/python tools/host_coverage.py $(VERIFY)/coverage-lines.json $(VERIFY)/coverage.json

# Simulators that count are built anew.
coverage-rtl: $(VENV)/.installed-dev
	$(BIN)/python tools/rtl_coverage.py --jobs $(JOBS) --out $(VERIFY)/rtl-coverage.json

verify-report: $(VENV)/.installed-dev
	$(BIN)/python tools/verify_report.py

# A copy that exists is kept, with what was changed in it.
notebooks: $(VENV)/.installed-notebook
	$(BIN)/pynq get-notebooks hwgen --ignore-overlays --path build/notebooks
	$(BIN)/jupyter lab build/notebooks/hwgen

boards: $(VENV)/.installed-sim
	sh tools/build_boards.sh $(BIN)/hwgen build/boards

# Host and virtual board in the Pythons and PYNQs that boards have; needs Python 3.10 and 3.12 beside $(PYTHON).
boards-test: $(VENV)/.installed-dev
	$(BIN)/python tools/boards_test.py $(ENVIRONMENTS)

# Needs Python 3.10 beside $(PYTHON).
board-walk: $(VENV)/.installed-dev
	$(BIN)/python tools/board_walk.py
# hwgen is on no package index: a release is this wheel, installed by its path.
dist: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet "setuptools>=77,<82"
	$(BIN)/python tools/build_wheel.py dist

# Random builds, models, memories and passes against golden, for $(SECONDS) seconds; what goes wrong is made small and kept.
fuzz: $(VENV)/.installed-dev
	mkdir -p build/verify
	$(BIN)/hwgen fuzz --seconds $(SECONDS) --seed $(SEED) --cases $(CASES) --jobs $(JOBS) --out build/verify --json > build/verify/fuzz.json

# Planted faults, proofs and parsers; each takes the better part of an hour.
mutate prove: $(VENV)/.installed-dev
	$(BIN)/python tools/$@.py --out build/verify/$(if $(filter prove,$@),formal,mutation).json

# What each test reaches is learnt once; --again RECORD runs only what survived.
mutate-host: $(VENV)/.installed-dev
	$(BIN)/python tools/mutate_host.py --seed $(SEED) --jobs $(JOBS) --out $(VERIFY)/host-mutation.json

fuzz-parsers: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet "atheris>=3"
	$(BIN)/python tools/fuzz_parsers.py --out build/verify/parsers.json

# Known weaknesses and licences of what is installed; asks PyPI.
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet "pip-audit>=2.10" "pip-licenses>=5"
	$(BIN)/pip-audit --skip-editable --progress-spinner off
	$(BIN)/pip-licenses --order=license

# Boards have Python 3.10. vermin takes Tensor.long for the long of Python 2.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/vermin --quiet --no-tips --violations --exclude long --target=3.10- boards golden hw hwgen notebooks sim sw
	$(BIN)/python tools/typecheck.py
	$(BIN)/python tools/check_layers.py

check-system:
	@sh tools/check_system.sh "$(PYTHON)"

$(VENV)/bin/python: | check-system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-sim: $(VENV)/bin/python pyproject.toml | check-system
	$(BIN)/python -m pip install --editable ".[sim]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml | check-system
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@ $(VENV)/.installed-sim

$(VENV)/.installed-notebook: $(VENV)/bin/python pyproject.toml | check-system
	$(BIN)/python -m pip install --editable ".[sim,notebook]"
	@touch $@ $(VENV)/.installed-sim

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
