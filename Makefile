# make demo   train a character model and let it write      make test   lint, types and all tests
# make bench  ours beside other libraries, some twenty minutes of an otherwise idle machine
# make web    build the tape player (needs Node.js)         make package  wheel and sdist, both with the player in them
# make torture  kill -9 at random moments, 20 times (N=1000: more often), then compare every byte of the weights
# make soak   the same work for ten minutes (SECONDS=3600: longer); memory, open files and threads must not grow
# make hosts  a training on two hosts, network namespaces of this machine, with accidents (Linux, as root)
# make fuzz   10,000 damaged files for every loader, 10,000 odd arrays for the engine under AddressSanitizer (CASES=...)
# make sanitize  the C++ engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer
PYTHON ?= python3
VENV := .venv
SANITIZED := build/sanitize
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt pyproject.toml constraints.txt $(wildcard native/*)
NODE := $(shell command -v npm)
BUNDLE := src/bptt/tape/bundle
GOLDEN := web/golden/.written
CHROMIUM := $(or $(CHROMIUM),$(shell command -v chromium || command -v chromium-browser || command -v google-chrome))

.PHONY: demo test test-web test-browser package bench hosts torture soak sanitize lint lint-web format web clean

demo: $(VENV)/installed
	$(BIN)/bptt train --out runs/demo --overwrite
	$(BIN)/bptt inspect runs/demo "The return value of a function"

test: lint lint-web test-web test-browser
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses 2 --dist worksteal

ifdef NODE
lint-web: web/node_modules/.installed
	cd web && npm run --silent lint

test-web: $(GOLDEN) build/bundle/.built
	cd web && npm run --silent test
	@diff -r -x .built build/bundle $(BUNDLE) >/dev/null || \
		{ echo "$(BUNDLE) is not what web/ builds; run make web and commit what it writes"; exit 1; }

ifdef CHROMIUM
test-browser: $(GOLDEN)
	cd web && CHROMIUM=$(CHROMIUM) npm run --silent browser
else
test-browser:
	@echo "Left out: tests of the tape player in a browser, for which Chromium is needed (on Debian: apt-get install"
	@echo "          chromium; elsewhere: make test CHROMIUM=/path/to/chromium)"
	@test -z "$(REQUIRE_ALL)"
endif

web: build/bundle/.built
	cp build/bundle/*.js $(BUNDLE)

build/bundle/.built: web/node_modules/.installed $(wildcard web/*.ts web/*.js web/*.json web/src/*/*)
	rm -rf build/bundle
	cd web && BUNDLE=../build/bundle npm run --silent build
	@touch $@

$(GOLDEN): web/node_modules/.installed $(VENV)/installed-dev tests/golden.py tests/golden_pages.py \
		$(wildcard src/bptt/*.py src/bptt/*/*.py $(BUNDLE)/*.js)
	$(BIN)/python tests/golden_pages.py web/golden
	@touch $@

docs/player.png: $(GOLDEN)
	cd web && CHROMIUM=$(CHROMIUM) npm run --silent picture

web/node_modules/.installed: web/package-lock.json
	cd web && npm ci --silent
	@touch $@
else
lint-web test-web test-browser:
	@echo "Left out: make $@, checks of the tape player for which Node.js 20.19 or newer and npm are needed"
	@echo "          (https://nodejs.org, or on Debian 13: apt-get install nodejs npm)"
	@test -z "$(REQUIRE_ALL)"

web:
	@echo "make web builds the tape player with Node.js 20.19 or newer and npm; none is there. https://nodejs.org"; exit 2
endif

package: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python tests/package.py dist

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks

torture: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture.py --kills $(or $(N),20)

soak: $(VENV)/installed-dev
	OMP_NUM_THREADS=2 $(BIN)/python tests/soak.py --seconds $(or $(SECONDS),600)

hosts: $(VENV)/installed-dev
	$(BIN)/python tests/two_hosts.py

fuzz: $(VENV)/installed-dev $(SANITIZED)/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --cases $(or $(CASES),10000)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
		$(SANITIZED)/bin/python tests/fuzz.py --cases $(or $(CASES),10000) --only native

# The engine under AddressSanitizer and UndefinedBehaviorSanitizer, once for each instruction set of this processor, in
# an environment that sees the packages of the other but not its build of bptt. What Python and torch never give back is
# not the engine's: leaks are not looked for. Memory that nobody has is refused in words, as without them.
sanitize: $(SANITIZED)/installed
	@for isa in baseline avx2 avx512; do \
		if why=$$(BPTT_ISA=$$isa $(BIN)/python -c 'import bptt' 2>&1); then \
			echo "sanitize: $$isa"; \
			LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
			ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 BPTT_ISA=$$isa OMP_NUM_THREADS=2 \
				$(SANITIZED)/bin/python -m pytest -q -p no:cacheprovider tests/test_native.py tests/test_sweeps.py tests/test_programs.py tests/test_cells.py || exit 1; \
		else echo "sanitize: $$isa left out: $${why##*ImportError: }"; fi; \
	done

$(SANITIZED)/installed: $(VENV)/installed-dev $(NATIVE)
	$(PYTHON) -m venv --without-pip $(SANITIZED)
	realpath $(VENV)/lib/python*/site-packages > $$(echo $(SANITIZED)/lib/python*/site-packages)/packages.pth
	$(BIN)/pip --python $(SANITIZED)/bin/python install --quiet --no-deps --force-reinstall \
		--config-settings=cmake.define.BPTT_SANITIZE=ON .
	@touch $@

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(wildcard native/*.cpp native/*.hpp benchmarks/peers/*.cpp)
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(wildcard native/*.cpp native/*.hpp benchmarks/peers/*.cpp)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bptt needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python $(NATIVE)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist web/node_modules web/golden
