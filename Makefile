# `make demo` and `make test` need Python 3.11 or newer, and build everything else that they need in .venv.
PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete

.PHONY: help demo test lint bench pack alone label clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile

# The stamp is written last, so an environment that was stopped half-way is built again from nothing,
# and one that is complete but older than the pins is brought up to them where it stands.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) -V), and Python 3.11 or newer is needed; name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "building $(VENV) (once; a few minutes)"
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

DEMO := runs/demo
CONFIGS := order_polyps/configs
LAW := law_polyps/configs
# -W ignore: MONAI warns at each start that a config can run code; these are our own.
BUNDLE := $(RUN) -W ignore -m monai.bundle run

demo: $(STAMP)  ## draw a small set, train ORDER and LAW on it for a few minutes, paint, measure, show where the results are
	@test -e $(DEMO)/data/dataset.json || $(RUN) -m common.data prepare phantoms $(DEMO)/data
	@$(BUNDLE) training --dataset_dir $(DEMO)/data --output_dir $(DEMO)/train \
		--config_file "['$(CONFIGS)/train.yaml','$(CONFIGS)/recipe_best.yaml','$(CONFIGS)/recipe_demo.yaml']"
	@$(BUNDLE) training --config_file $(LAW)/train.yaml --dataset_dir $(DEMO)/data --output_dir $(DEMO)/law \
		--cache_dir $(DEMO)/cache --keep_control True --steps 40 --steps_per_epoch 20 --batch_size 8 --strip_images 2
	@$(BUNDLE) --config_file $(LAW)/inference.yaml --dataset_dir $(DEMO)/data --key validation --steps 25 --output_dir $(DEMO)/painted
	@$(BUNDLE) --dataset_dir $(DEMO)/data --checkpoint $(DEMO)/train/model.pt --output_dir $(DEMO)/results --image_size 192 \
		--config_file $(CONFIGS)/evaluate.yaml
	@echo "ORDER, table and pictures: $(DEMO)/results"
	@echo "LAW, a short training: $(DEMO)/law/strips; painted with the weights that ship: $(DEMO)/painted/overview.png"

test: $(STAMP)  ## all tests, on two processes; ARGS="-m 'not slow'" for the quick ones, ARGS="-n 0 …" for one process
	@$(RUN) -m pytest -n 2 --dist loadscope $(ARGS)

lint: $(STAMP)  ## style and format, as .ci/run checks them
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m ruff format --check --quiet .

bench: $(STAMP)  ## the tables of parameters, cost, memory and speed
	@$(RUN) -m benchmarks

pack: $(STAMP)  ## every bundle as a zip to hand on, in dist/: with its Python, and the segmenters without any
	@$(RUN) -W ignore -m bundles pack all --out dist
	@$(RUN) -W ignore -m bundles pack all --code_free --out dist

alone: $(STAMP)  ## each zip tried in a new environment that has the packages it lists and nothing else
	@$(RUN) -W ignore -m tests.distribution.alone

LABEL := .venv-label
LABEL_RUN := $(LABEL)/bin/python
LABEL_STAMP := $(LABEL)/.complete

# An environment of its own (constraints-label.txt says why); pip reads dependency groups from 25.1 on.
$(LABEL_STAMP): pyproject.toml constraints-label.txt | $(STAMP)
	@echo "building $(LABEL) (once; a few minutes)"
	@test -e $@ || $(PYTHON) -m venv --clear $(LABEL)
	@$(LABEL_RUN) -m pip install -qq --disable-pip-version-check 'pip>=25.1'
	@$(LABEL_RUN) -m pip install -qq --disable-pip-version-check -c constraints-label.txt --group label
	@touch $@

label: $(STAMP) $(LABEL_STAMP)  ## the packed bundles in a MONAI Label server: infer, train, least certain first
	@$(LABEL_RUN) -W ignore -m tests.label --packer $(RUN)

clean:  ## remove the environment and what the demo left; trained models elsewhere stay
	@rm -rf $(VENV) $(LABEL) runs/demo .pytest_cache .ruff_cache build *.egg-info
