# make setup | demo | test | check | bench | clean
PY := .venv/bin/python
UV := .venv/bin/python -m uv
# The engine: vllm on a machine with an NVIDIA GPU, cpu elsewhere. Say EXTRA=... to choose.
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo vllm || echo cpu)
# A folder of wheels that pip was told of (a CPU build of torch, say) serves uv too; else uv picks torch for the machine.
ifneq ($(PIP_FIND_LINKS),)
  comma := ,
  export UV_FIND_LINKS := $(subst $() ,$(comma),$(strip $(PIP_FIND_LINKS)))
  TORCH :=
else
  TORCH := --torch-backend=auto
endif

.PHONY: setup demo test smoke check bench gpu clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt overrides.txt
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet uv
	$(UV) pip install --python $(PY) --compile-bytecode $(TORCH) \
	  --constraints constraints.txt --overrides overrides.txt --editable '.[$(EXTRA),train,evaluate,report,select,minilm,dev]'
	touch $@

demo: setup
	$(PY) -m factory generate task=code $(ARGS)

test: setup
	$(PY) -m pytest tests $(ARGS)

# The whole loop for real, killed on the way.
smoke: setup
	FACTORY_SMOKE=1 $(PY) -m pytest tests/iterate/test_smoke.py $(ARGS)

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: setup
	$(PY) -m benchmarks.pipeline
	$(PY) -m benchmarks.sandbox

# On a machine with a GPU: the managed servers' choice of replicas, verified code, and the engine against vllm.LLM.
gpu:
	$(PY) -m factory doctor
	$(PY) -m factory generate task=code n=$(or $(N),256) run=gpu engine.extra_args='[--max-num-batched-tokens,"8192"]'
	$(PY) -m benchmarks.training --model $(or $(MODEL),outputs/sft/model)
	$(PY) -m benchmarks.vllm_offline --rows 4096 --tokens 128 --sequences 1024

clean:
	rm -rf .venv build dist
