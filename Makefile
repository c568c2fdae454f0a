# Every target sets up what it needs in .venv; a second run reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.test-ready
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
DEMO := lgvi_core/demo
TALK := the circle bothers me\nthe large one\ngreat, and the other circle?\n

.PHONY: demo test benchmark clean

demo: $(READY)
	$(BIN)/python -m lgvi_core remove $(DEMO)/clip.mp4 "remove the red circle on the left" \
		-o out/demo/removed.mp4 --mask-output out/demo/mask.mp4 --sheet out/demo/sheet.png
	printf '$(TALK)' | $(BIN)/python -m lgvi_core chat $(DEMO)/clip.mp4 -o out/demo/conversation.mp4
	@echo "video: out/demo/removed.mp4   conversation: out/demo/conversation.mp4   before: $(DEMO)/clip.mp4"

test: $(TEST_READY)
	$(BIN)/python tests/get_comfyui.py
	$(BIN)/python -m pytest -q -rs $(TESTS)

benchmark: $(READY)
	$(BIN)/python -m benchmarks.run

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) torch torchvision torchaudio
	$(PIP) --editable ".[train]"
	touch $@

# The tests run on the real ComfyUI: it, what it requires, comfy-cli, and what drives a browser.
$(TEST_READY): $(READY) tests/get_comfyui.py
	$(PIP) --editable ".[test]" --requirement "$$($(BIN)/python tests/get_comfyui.py)/requirements.txt"
	touch $@

clean:
	rm -rf $(VENV) out
