"""A LoRA file of training in ComfyUI's own loader: every adapter is taken, and does what it did in training."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from small import HOST, checkpoint_file, conditions, core, loaded, ours, relative, sample


def trained(kind, settings):
    """A file of adapters as after training, and a checkpoint that has them merged."""
    sys.path.append(str(Path(HOST.pack.__file__).resolve().parent))
    from train import config, lora

    checkpoints = ours("lgvi_core.checkpoints")
    with torch.inference_mode(False):
        checkpoint = checkpoints.load(checkpoint_file(kind))
        tuned = checkpoints.load(checkpoint_file(kind)).unet
        run = {"output": "unused", "steps": 1, "batches": [{"frames": 1, "size": 1}], "lora": settings}
        run = config.build(config.TrainConfig, run)
        lora.add(tuned, run.lora)
        generator = torch.Generator().manual_seed(4)
        for name, module in tuned.named_modules():
            if hasattr(module, "get_delta_weight"):
                for half in (module.lora_A, module.lora_B):
                    torch.nn.init.normal_(half["default"].weight, std=0.2, generator=generator)
                checkpoint.unet.get_parameter(f"{name}.weight").data += module.get_delta_weight("default").detach()
        file, merged = HOST.work / "lora.safetensors", HOST.work / "merged.safetensors"
        lora.save(tuned, file, run)
        checkpoints.save(checkpoint, merged)
    return file, merged


def check_a_trained_lora_does_on_the_host_what_it_did_in_training():
    targets = r"attn1|attn2|attn_temp|proj_in|resnets"
    file, merged = trained("epsilon", {"rank": 3, "alpha": 6.0, "targets": targets})
    model, given, content = loaded("epsilon").model, conditions(), load_file(file)
    keys = core("comfy.lora").model_lora_keys_unet(model.model, {})
    patches = core("comfy.lora").load_lora(content, keys)
    assert len(patches) == sum(name.endswith(".alpha") for name in content) > 20
    with_lora, _ = core("comfy.sd").load_lora_for_models(model, None, content, 1.0, 0.0)
    found, wanted = sample(with_lora, given), sample(ours("nodes.host").load(merged).model, given)
    assert relative(found, wanted) < 1e-4
    assert relative(found, sample(model, given)) > 0.05
