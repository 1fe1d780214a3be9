# Two commands do everything: `make train` and `make test`. `make` alone lists the others.
VENV   ?= .venv
# Empty: the first Python from 3.10 to 3.14 that works, and torch==2.13.0 (.ci/env.sh). Given once, both are remembered.
PYTHON ?=
TORCH  ?=
export VENV PYTHON TORCH

PRESET  ?= i3-tiny
DATA    ?= auto
MINUTES ?= 3
OUT     ?= runs/demo
# Recipes see these as variables of the shell, so that a name with blanks or quotes arrives as it was given.
export PRESET DATA MINUTES OUT

bin := $(VENV)/bin
env := @sh .ci/env.sh

.DEFAULT_GOAL := help
.PHONY: help env train check test versions export format clean-nbs readme docs kaggle kernel-test hosts lab clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "Settings, as in 'make train MINUTES=10':" \
		"PRESET DATA MINUTES OUT ARGS (train), NB FLAGS TIMEOUT (test), PYTHON TORCH VENV."

env: ## make the environment in .venv
	$(env) dev

train: ## train a small model for three minutes, plot its loss, let it write a story
	$(env) dev
	$(bin)/i3nb_train --preset "$$PRESET" --data "$$DATA" --minutes "$$MINUTES" --out "$$OUT" $(ARGS)

check: ## only the checks of `make test`: style, imports, and that everything is in step; seconds
	$(env) dev
	@$(bin)/python .ci/test.py --checks

test: ## check style, imports, and that export, clean and README are in step; then run every notebook (NB=nbs/05 for one)
	$(env) dev
	@$(bin)/python .ci/test.py $(NB) --flags "$(FLAGS)" $(if $(TIMEOUT),--timeout $(TIMEOUT))

versions: ## run some notebooks with the oldest and the newest libraries that settings.ini allows
	$(env) dev
	@sh .ci/versions.sh $(NB)

export: ## write i3nb/*.py from the notebooks
	$(env) dev
	@PATH="$(abspath $(bin)):$$PATH" nbdev_export

format: ## bring notebooks and scripts into the project's one style; what it cannot mend it names
	$(env) dev
	@$(bin)/ruff check --quiet --select I,E401 --fix nbs .ci kaggle setup.py
	@$(bin)/ruff format nbs .ci kaggle setup.py
	@$(bin)/ruff check nbs .ci kaggle setup.py

clean-nbs: ## strip from the notebooks what changes at every run; outputs stay
	$(env) dev
	@PATH="$(abspath $(bin)):$$PATH" nbdev_clean

readme: ## write README.md from nbs/index.ipynb
	$(env) dev
	@$(bin)/python .ci/docs.py readme

docs: ## make the site from the notebooks, in _docs/
	$(env) dev docs
	@$(bin)/python .ci/make_site.py

# USER is also a shell variable: only `make kaggle USER=name` counts
kaggle: ## build the Kaggle notebook with the library inside, in build/kaggle/ (USER=your-kaggle-name for the CLI)
	@$(or $(firstword $(wildcard $(bin)/python)),python3) .ci/pack_kaggle.py \
		$(if $(filter command line,$(origin USER)),--user $(USER))

kernel-test: ## run that notebook headless, twice, as Kaggle would
	$(env) dev
	@$(bin)/python .ci/kernel.py

hosts: ## train on two machines that are imitated, disturb them, and compare the losses; needs root (ARGS=--shard)
	$(env) dev
	@$(bin)/python .ci/hosts.py $(ARGS)

lab: ## open the notebooks in Jupyter
	$(env) dev
	@$(bin)/jupyter lab nbs

clean: ## remove what make can make again: the environment, builds, the site; runs and prepared data stay
	@[ ! -e "$(VENV)/pyvenv.cfg" ] || rm -rf "$(VENV)"
	@rm -rf build _docs i3nb.egg-info .ruff_cache .import_linter_cache
	@find i3nb nbs .ci -name __pycache__ -prune -exec rm -rf {} +
	@for kept in runs "$${I3NB_CACHE:-$$HOME/.cache/i3nb}"; do \
		[ ! -e "$$kept" ] || echo "kept: $$(du -sh "$$kept")"; \
	done
