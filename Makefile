# The two commands are `make demo` and `make test`; both set up whatever they need.
PYTHON ?= python3
# Kilted's wheels have an environment and a build of their own, and the tests of the node are run.
export ROS_WHEELS
SUFFIX := $(if $(filter-out jazzy,$(ROS_WHEELS)),-$(ROS_WHEELS))
PYTEST_ARGS ?= $(if $(SUFFIX),test/ros)
VENV   := .venv$(SUFFIX)/bin
SHELL  := /bin/bash
# Compile each module once: uv's environments have no bytecode, and some machines are told to write none.
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
export PYTHONDONTWRITEBYTECODE :=
# A working shell: the environment, then the ROS package built into install/.
READY  := . $(VENV)/activate && . install$(SUFFIX)/setup.bash
# Whole files go to one of the workers, so that what the tests of a file share is made once.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
COMPILE := $(VENV)/uv pip compile pyproject.toml --universal --python-version 3.10 --all-extras --no-annotate --no-header -q

.PHONY: help build demo test test-unit test-install test-servers lint bench soak lock clean

help:
	@echo 'make demo   the real node on real photographs and generated scenes; pictures in out/demo'
	@echo 'make test   every test, two at a time; WORKERS=4: four'
	@echo 'make test-unit   the quick tests that need neither ROS nor a model library'
	@echo 'make test-install  the README on a stand-in for a robot, models and all; half an hour'
	@echo 'make test-servers  transformers serve, llama.cpp and vLLM for real; SERVERS=llama_cpp: that one'
	@echo 'make bench  most figures of docs/measurements'
	@echo 'make soak   the node for half an hour with faults; figures in out/soak'
	@echo 'make lint   ruff and mypy'
	@echo 'make build  .venv, build and install only; then: $(READY)'
	@echo 'make lock   resolve the dependencies anew into requirements.lock and, for NumPy 1, requirements-numpy1.lock'
	@echo 'ROS_WHEELS=kilted make test   the tests of the node on ROS 2 Kilted'

build:
	@$(PYTHON) scripts/bootstrap.py

demo:
	@$(PYTHON) scripts/bootstrap.py demo models || $(PYTHON) scripts/bootstrap.py demo
	@$(READY) && segzero demo --output out/demo

test-unit:
	@$(PYTHON) scripts/bootstrap.py demo data test
	@$(READY) && python -m pytest $(PARALLEL) -m 'unit and not slow' $(PYTEST_ARGS)

test:
	@$(PYTHON) scripts/bootstrap.py demo data models quantization openai openvino mcp ray voice whisper training test lint
	@$(READY) && { \
	    python -m pytest $(PARALLEL) -m 'not alone' $(PYTEST_ARGS); parallel=$$?; \
	    python -m pytest -m alone $(PYTEST_ARGS); alone=$$?; \
	    case $$parallel,$$alone in 0,0|0,5|5,0) ;; *) exit 1 ;; esac; }

test-install:
	@$(PYTHON) scripts/bootstrap.py test
	@. $(VENV)/activate && python -m pytest test/install/rehearsal.py --timeout 7200 $(PYTEST_ARGS)

# Real servers in environments of their own under out/servers, about 12 GB; SERVERS names some.
# `transformers serve` is in the product's own environment. SERVERS=ray: Ray's cluster listens on the
# machine's own address whatever it is told, so it is run only when it is named.
SERVERS ?= transformers llama_cpp vllm
test-servers:
	@$(PYTHON) scripts/bootstrap.py demo models openai test
	@$(READY) && python test/servers/environments.py out/servers $(filter-out transformers,$(SERVERS))
	@$(READY) && SEGZERO_SERVERS=out/servers python -m pytest $(SERVERS:%=test/servers/test_%.py) $(PYTEST_ARGS)

lint:
	@$(PYTHON) scripts/bootstrap.py demo data models quantization openai openvino mcp ray voice whisper training test lint
	@$(READY) && ruff check . && ruff format --check . && mypy

bench:
	@$(PYTHON) scripts/bootstrap.py demo data models openai voice training test
	@$(READY) && python -m benchmarks

soak:
	@$(PYTHON) scripts/bootstrap.py demo training
	@$(READY) && python -m benchmarks.soak --output out/soak $(SOAK_ARGS)

lock:
	@$(PYTHON) scripts/bootstrap.py
	@$(COMPILE) --upgrade -o requirements.lock
	@cp requirements.lock requirements-numpy1.lock
	@$(COMPILE) -c <(echo 'numpy<2') -o requirements-numpy1.lock
	@$(VENV)/uv pip compile --group pyproject.toml:ros-kilted --universal --python-version 3.10 --no-annotate --no-header -q | grep '^ros-' > requirements-kilted.lock

clean:
	rm -rf .venv build install .venv-kilted build-kilted install-kilted log out
