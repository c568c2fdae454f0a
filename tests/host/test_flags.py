"""The pack on a server that was started otherwise."""

import json

import pytest
from host_server import ROOT, Client, running

CLIP = ROOT / "lgvi_core" / "demo" / "clip.mp4"
FLAGS = {
    "weights and previews as the user forces them": ["--force-fp16", "--preview-method", "latent2rgb"],
    "no nodes of paid services, which sets a content security policy": ["--disable-api-nodes"],
    "no workflow in what is saved, no cache": ["--disable-metadata", "--cache-none"],
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_a_server_with_other_flags_removes_by_words(comfyui, tmp_path, flags):
    with running(comfyui, tmp_path, *flags) as server:
        server.add_input(CLIP)
        workflow = json.loads((ROOT / "workflows" / "remove-by-words.json").read_text("utf-8"))
        run = Client(server).run(server.graph_of(workflow))
        assert run.status == "success", run.of("execution_error")
        assert "IMPORT FAILED" not in server.log()
