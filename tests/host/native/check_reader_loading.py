"""Load Request Reader: what it lists and refuses; the language model in the host's memory management."""

import gc
import shutil
import weakref
from unittest.mock import patch

import torch
from readers import ask, reader, reader_file
from small import HOST, core, ours, raises
from small_llava import small_encoder, write_trained, write_transformers
from videos import noise


def node():
    return ours("nodes.request_reader").LoadRequestReader


def models(name):
    folder = HOST.work / "base" / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def linear_layers(one):
    ops = core("comfy.ops")
    return [module for module in one.encoder.modules() if isinstance(module, ops.manual_cast.Linear)]


def check_readers_of_every_kind_are_listed_and_loaded():
    module, loader = ours("nodes.request_reader"), ours("nodes.loader")
    before = set(loader.choices())
    folder, file = models("lgvi"), reader_file()
    shutil.copy(file, folder / "talks.safetensors")
    (models("text_encoders") / "sub").mkdir()
    shutil.copy(file, models("text_encoders") / "sub" / "talks too.safetensors")
    torch.save({}, models("text_encoders") / "another.pth")
    (models("text_encoders") / "cut.safetensors").write_bytes(file.read_bytes()[:5000])
    encoder = small_encoder()
    write_trained(encoder, folder / "lgvi-i")
    write_transformers(encoder, folder / "sub" / "llava-hf")
    try:
        found = module.choices()
        assert {"talks.safetensors", "sub/talks too.safetensors", "lgvi-i"} <= found.keys()
        assert not {"another.pth", "cut.safetensors", "sub/llava-hf"} & found.keys()
        assert module.bases().keys() == {"sub/llava-hf"}
        assert set(loader.choices()) == before  # they are no models for Load LGVI
        for name in ("sub/talks too.safetensors", "sub\\talks too.safetensors"):
            assert node().validate_inputs(name, module.BESIDE) is True
            (one,) = node().execute(name).result
            assert ask(one, noise())[4] and one.mark
        assert "in and beside" in str(failure(node().execute, "lgvi-i"))
        (one,) = node().execute("lgvi-i", "sub/llava-hf").result
        assert one.mark == "" and one.encoder.system_prompt == encoder.system_prompt
        raises("is whole, it takes no LLaVA folder", node().execute, "talks.safetensors", "sub/llava-hf")
        state = node().fingerprint_inputs("talks.safetensors")
        assert state == node().fingerprint_inputs("talks.safetensors")
        (folder / "talks.safetensors").touch()
        assert state != node().fingerprint_inputs("talks.safetensors")
        refused = node().validate_inputs("gone.safetensors", module.BESIDE)
        assert "there is no 'gone.safetensors'" in refused and "talks.safetensors" in refused
        assert "there is no 'gone'" in node().validate_inputs("talks.safetensors", "gone")
        assert node().validate_inputs(None, None) is True and node().fingerprint_inputs(None) != 0
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(models("text_encoders"))


def failure(call, *arguments):
    try:
        call(*arguments)
    except ours("lgvi_core.errors").InputError as error:
        return error
    raise AssertionError("no InputError")


def check_the_folder_of_lgvi_i_steers_its_own_u_net():
    mark_of, request_file = ours("nodes.host_reader").mark_of, ours("lgvi_core.checkpoints.request_file")
    from small import checkpoint_file, write_part

    unet = ours("lgvi_core.checkpoints").load(checkpoint_file("epsilon")).unet
    folder = HOST.work / "whole lgvi-i"
    write_trained(small_encoder(), folder)
    write_part(folder / "unet", unet.config.to_dict(), unet.state_dict())
    assert mark_of(folder) == request_file.mark(unet.state_dict())
    assert mark_of(folder / "llava" / "llava_weights.pth") == ""


def check_it_is_loaded_when_it_is_asked_and_leaves_when_memory_is_needed():
    management = core("comfy.model_management")
    management.unload_all_models()
    one = ours("nodes.host_reader").load_reader(reader_file())
    assert not management.loaded_models()
    first = ask(one, noise(seed=1))
    assert management.loaded_models() == [one.patcher]
    ask(one, noise(seed=1))
    management.unload_all_models()
    ask(one, noise(seed=1))  # what it said is known: it is not loaded for that
    ask(one, noise(), request=" ")
    assert not management.loaded_models()
    again = ask(one, noise(seed=1), seed=5)
    assert torch.equal(again[6][0][0], first[6][0][0])
    patcher = weakref.ref(one.patcher)
    management.unload_all_models()
    del one
    gc.collect()
    assert patcher() is None


def check_with_little_room_it_is_loaded_in_part():
    management = core("comfy.model_management")
    one = ours("nodes.host_reader").load_reader(reader_file())
    whole = ask(one, noise(seed=1))[6][0][0]
    management.unload_all_models()

    def load_some(models, **_):
        (patcher,) = models
        patcher.partially_load(patcher.load_device, 100_000)

    with patch.object(management, "load_models_gpu", load_some):
        assert torch.equal(ask(one, noise(seed=1), seed=5)[6][0][0], whole)
    assert one.patcher.model.model_lowvram and 0 < one.patcher.loaded_size() < one.patcher.model_size()
    one.patcher.partially_unload(one.patcher.offload_device, 50_000)
    with patch.object(management, "load_models_gpu", lambda models, **_: None):
        assert torch.equal(ask(one, noise(seed=1), seed=6)[6][0][0], whole)
    one.patcher.detach()


def check_what_the_host_leaves_behind_goes_along():
    management, ops = core("comfy.model_management"), core("comfy.ops")
    one = ours("nodes.host_reader").load_reader(reader_file())
    one.patcher.load_device = torch.device("meta")  # a device that is not the one it waits on
    with patch.object(management, "load_models_gpu", lambda models, **_: None):
        encoder = one.on_device()
    for name, module in encoder.named_modules():
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            assert value.is_meta != isinstance(module, ops.CastWeightBiasOp), name
    assert encoder.device.type == "meta"


def check_weights_have_the_type_of_the_hosts_text_encoders():
    from comfy.cli_args import args

    load, expected = ours("nodes.host_reader").load_reader, ask(reader(), noise(seed=2))
    types = {None: torch.float16, "fp32_text_enc": torch.float32, "bf16_text_enc": torch.bfloat16}
    types |= {"fp8_e4m3fn_text_enc": torch.float8_e4m3fn}
    for flag, dtype in types.items():
        with patch.object(args, flag or "fp16_text_enc", True):
            one = load(reader_file())
        layers = linear_layers(one)
        assert len(layers) > 20 and {layer.weight.dtype for layer in layers} == {dtype}
        others = {value.dtype for value in one.encoder.parameters() if not any(value is x.weight for x in layers)}
        assert one.encoder.dtype == torch.float32 and torch.float32 in others
        found = ask(one, noise(seed=2))
        assert found[0] == expected[0]
        close = 1e-5 if dtype.itemsize > 1 and dtype != torch.bfloat16 else 1.0
        assert (found[6][0][0] - expected[6][0][0]).abs().max() < close, dtype
