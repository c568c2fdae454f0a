# Both targets set up everything they need in .venv; a second run reuses it.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DEMO := lgvi_core/demo

.PHONY: demo test benchmark clean

demo: $(READY)
	$(VENV)/bin/python -m lgvi_core remove $(DEMO)/clip.mp4 "remove the red circle on the left" \
		-o out/demo/removed.mp4 --mask-output out/demo/mask.mp4 --sheet out/demo/sheet.png
	@echo "video: out/demo/removed.mp4   before: $(DEMO)/clip.mp4"

test: $(READY)
	$(VENV)/bin/python -m pytest -q -rs $(TESTS)

benchmark: $(READY)
	$(VENV)/bin/python -m benchmarks.run

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch torchvision torchaudio
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) out
