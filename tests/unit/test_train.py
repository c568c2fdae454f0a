"""Training: config, optimizer, labels, and a run from its first step to its checkpoint."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_training import DEMO, assert_same_step, overrides, tiny

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from train import config as configs
from train import lgvi, loop, model, optimizer
from train.data import labels, mixing
from train.data.synthetic import draw
from train.objectives import Objective
from train.tokenizer import train_clip_tokenizer


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("optimizer.learning_rat=1", "did you mean optimizer.learning_rate"),
        ("loss.masks=1", "did you mean loss.mask"),
        ("steps=soon", "steps is 'soon'"),
        ("steps=0", "steps is 0"),
        ("precision=int8", "'int8'"),
        ("batches=[]", "batches"),
        ("batches=[{frames: 1, size: 1, start: 3}]", "no kind of batch is in use at step 0"),
        ("batches=[{frames: 1, size: 1, end: 3}]", "no kind of batch is in use at step 3"),
        ("batches=[{frame: 1, size: 1, share: 1}]", "did you mean batches\\[0\\].frames"),
        ("noisiest=2", "noisiest is 2"),
        ("version=99", "update lgvi"),
        ("steps", "key=value"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(override, complaint):
    with pytest.raises(InputError, match=complaint):
        configs.load(DEMO, [override])


def test_a_config_that_is_not_there_or_no_yaml_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        configs.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="no valid YAML"):
        configs.load(tmp_path / "bad.yaml")


def test_only_what_is_trainable_trains():
    config = tiny("unused", "trainable=attn_temp", "train_text_encoder=false", "recognition.blocks=[]")
    names = [name for name, p in model.build(config).model.named_parameters() if p.requires_grad]
    assert names and all("attn_temp" in name for name in names)
    with pytest.raises(InputError, match="matches none"):
        model.build(tiny("unused", "trainable=atn_temp"))


def test_groups_have_their_own_rates_schedules_and_decay():
    config = tiny(
        "unused",
        "steps=102",
        "optimizer={learning_rate: 1.0e-3, schedule: constant, warmup_steps: 2, final_learning_rate: 0.0, groups: "
        "[{match: mask_decoder, learning_rate: 1.0e-2, schedule: cosine, weight_decay: 0.5}]}",
    )
    network = model.build(config).model
    groups = optimizer.parameter_groups(network, config.optimizer)
    decoder = {id(p) for name, p in network.named_parameters() if "mask_decoder" in name}
    for group in groups:
        assert {id(p) in decoder for p in group["params"]} == {group["name"] == "mask_decoder"}
        (matrices,) = {p.ndim > 1 for p in group["params"]}
        assert group["weight_decay"] == matrices * (0.5 if group["name"] == "mask_decoder" else 0.01)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    assert optimizer.rates(config, 0) == pytest.approx({"mask_decoder": 5e-3, "learning_rate": 5e-4})
    assert optimizer.rates(config, 52) == pytest.approx({"mask_decoder": 5e-3, "learning_rate": 1e-3})
    with pytest.raises(InputError, match="'mask_decoderr' matches no"):
        mistyped = dataclasses.replace(config.optimizer, groups=(configs.Group("mask_decoderr"),))
        optimizer.parameter_groups(network, mistyped)


def test_the_average_swaps_in_and_out_bit_for_bit():
    weight = torch.nn.Parameter(torch.randn(5))
    ema = optimizer.EMA([weight], 0.5)
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    ema.update(100)
    now = weight.detach().clone()
    ema.swap()
    torch.testing.assert_close(weight.detach(), start + 0.5)
    ema.swap()
    assert torch.equal(weight, now)


def test_a_run_ends_in_a_checkpoint_and_a_log(tmp_path):
    more = ["watch.samples=2", "watch.sample_every=2", "saving.keep_best=true", "gradient_checkpointing=true"]
    path = lgvi.train(tiny(tmp_path / "run", *more, "steps=2"), "cpu")
    loaded = checkpoints.load(path)
    assert loaded.config.gate and loaded.training == {"width": 64, "height": 64, "frames": 8}
    assert loaded.scheduler_config["prediction_type"] == "sample" and loaded.licence == "Apache-2.0"
    records = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "total" in record] == [0, 1]
    assert any("held_out" in record for record in records)
    assert (path.parent / "best.safetensors").read_bytes() == path.read_bytes()
    assert loop.AcceleratorState._shared_state == {}  # nothing is left for the next run in this process


def test_the_checkpoint_holds_the_average(tmp_path):
    last = checkpoints.load(lgvi.train(tiny(tmp_path / "last", "ema_decay=null"), "cpu"))
    average = checkpoints.load(lgvi.train(tiny(tmp_path / "average", "ema_decay=0.999"), "cpu"))
    assert not torch.equal(last.unet.conv_in.weight, average.unet.conv_in.weight)
    torch.testing.assert_close(last.unet.conv_in.weight, average.unet.conv_in.weight, atol=0.01, rtol=0)


def test_accumulated_passes_give_what_one_pass_does(tmp_path):
    for micro in (4, 1):
        kinds = f"batches=[{{frames: 2, size: 4, width: 32, height: 32, micro: {micro}}}]"
        lgvi.train(tiny(tmp_path / str(micro), kinds, "steps=1"), "cpu")
    assert_same_step(tmp_path / "4", tmp_path / "1")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(tmp_path, monkeypatch):
    call = Objective.__call__

    def broken(self, network, batch, seed, step):
        losses = call(self, network, batch, seed, step)
        return losses if step < 2 else dataclasses.replace(losses, total=losses.total * float("nan"))

    monkeypatch.setattr(Objective, "__call__", broken)
    complaint = "not finite at step 2: total nan.*samples: synthetic:.*finite and saved"
    with pytest.raises(FloatingPointError, match=complaint):
        lgvi.train(tiny(tmp_path), "cpu")
    monkeypatch.undo()
    assert (tmp_path / "states" / "step-000002" / "state.json").is_file()
    assert lgvi.train(tiny(tmp_path), "cpu") is not None  # from the saved state, to the end


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="parameters are not finite"):
        lgvi.train(tiny(tmp_path, "optimizer.learning_rate=1.0e+38", "optimizer.warmup_steps=0"), "cpu")
    assert not list(tmp_path.glob("states/step-*"))


def test_samples_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    config = tiny(tmp_path, "recognition.blocks=[]", "batches=[{frames: 1, size: 4, width: 32, height: 32, micro: 2}]")

    def without(broken_passes):
        for batch in mixing.loader(config, 0):
            if batch["step"] == 1 and batch["last"] in broken_passes:
                names = ("frames", "clean", "mask", "positions", "name", "sentence")
                batch |= {name: batch[name][:0] for name in names}
                batch["broken"] = [("data:1", "no such file")] * 2
            yield batch

    class Ledger:
        steps = []

        def first_batch(self, batch):
            pass

        def step(self, step, losses, rates, timesteps, per_sample, samples, broken):
            self.steps.append((step, samples, len(per_sample), len(broken), np.isfinite(losses["total"])))

        def due(self, step):
            return False

    none = "no sample of step 1 can be read: data:1: no such"
    for broken_passes, complaint in (((True,), None), ((True, False), none)):
        with loop.accelerated(config, "cpu") as accelerator:
            parts = model.build(config)
            trainer = loop.Trainer(config, parts.model, accelerator, tmp_path / f"{len(broken_passes)}")
            objective = Objective(config, parts, accelerator.device)
            run = (without(broken_passes), objective, Ledger(), parts.autoencoder, None)
            if complaint is None:
                assert trainer.train(*run)
                assert Ledger.steps[:2] == [(0, 4, 4, 0, True), (1, 2, 2, 2, True)]
            else:
                with pytest.raises(InputError, match=complaint):
                    trainer.train(*run)


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("precision=fp16", "needs a GPU"),
        ("unet.mask_decoder_type=null", "mask"),
        ("saving.keep_last=0", "saving.keep_last is 0"),
    ],
)
def test_a_run_that_cannot_be_says_why_before_it_starts(tmp_path, override, complaint):
    with pytest.raises(InputError, match=complaint):
        lgvi.train(tiny(tmp_path, override), "cpu")
    assert not (tmp_path / "states").exists()


def test_eight_bit_adam_says_how_to_install_what_it_needs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    config = tiny("unused", "optimizer.kind=adamw8bit")
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        optimizer.make_optimizer([], config.optimizer, fused=False)


def test_the_command_line_reports_a_mistake_with_exit_code_2(tmp_path):
    assert lgvi.main(["--config", str(DEMO), "stepz=3"]) == 2
    assert lgvi.main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert lgvi.main(["--config", str(DEMO), "--device", "cpu", *overrides(tmp_path, "precision=fp16")]) == 2


def test_labels_say_what_each_object_is_and_where_it_stands():
    clip = draw(3, 1, 4, augment=True, kind="position")
    owners, facts = labels.owners(clip.object_masks, 16), labels.facts(clip)
    assert owners.shape == (4, 16, 16) and set(np.unique(owners)) == {labels.UNKNOWN, *range(len(clip.objects))}
    for i, drawn in enumerate(clip.objects):
        shape, color, size = facts[i, :3]
        assert facts[i, -1] == (i in clip.targets)
        named = labels.SHAPES[shape], labels.COLORS[color], labels.SIZES[size]
        assert named == (drawn.shape, drawn.color, drawn.size)
        for t in range(4):
            x, y = (drawn.centers(4)[t] / 4).astype(int)
            assert owners[t, y, x] == i
    centers = np.stack([drawn.centers(4) for drawn in clip.objects])
    places = facts[: len(clip.objects), 3 : 3 + labels.PLACES]
    among_all = places.reshape(-1, len(labels.SHARED), 4)[:, 0]  # rivals share nothing
    for i, sides in enumerate(among_all):
        others = np.delete(centers, i, axis=0)
        for side, (axis, sign) in enumerate(((0, -1), (0, 1), (1, -1), (1, 1))):
            lead = sign * (centers[i] - others)[..., axis]
            behind = (-lead).min(1).max() > 5
            expected = 1 if lead.min() > 5 else 0 if behind else labels.UNKNOWN
            assert sides[side] == expected
    assert (facts[len(clip.objects) :] == labels.UNKNOWN).all()


@pytest.mark.parametrize(
    "sentence, named",
    [
        ("Please remove the tiny violet ball on the left side.", {"small", "purple", "circle", "left"}),
        ("get rid of all diamond-shaped ones and the big white box", {"diamond", "large", "white", "square"}),
        ("erase everything but the topmost plus signs", {"top", "cross"}),
        ("", set()),
    ],
)
def test_labels_say_what_a_sentence_mentions(sentence, named):
    assert {name for name, there in zip(labels.MENTIONS, labels.mentions(sentence)) if there} == named


def test_labels_say_which_looks_of_an_object_the_sentence_names():
    clip = draw(3, 2, 1, kind="attributes")
    said = labels.mentions(clip.sentence)
    named = dict(zip(labels.MENTIONS, said))
    flags = labels.facts(clip)[: len(clip.objects), -4:-1]
    for drawn, row in zip(clip.objects, flags):
        for flag, (name, values) in zip(row, labels.LOOKS.items()):
            known = any(named[value] for value in values)
            assert flag == (named[getattr(drawn, name)] if known else labels.UNKNOWN)


def test_the_tokenizer_knows_its_words_and_takes_any_text():
    from lgvi_core.models.text_encoder import TextEncoder

    files = train_clip_tokenizer(["Remove the red circle, please", "erase the blue square"] * 3, 60)
    size = len(json.loads(files["vocab.json"]))
    special = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder(
        {"vocab_size": size, "max_position_embeddings": 20, "projection_dim": 16, **shape, **special}, files
    )
    assert encoder.length("REMOVE the red circle") == 6  # four words between start and end
    for text in ("", "übermäßig 猫 🙂", "x" * 300):
        ids = encoder.tokenize([text])
        assert ids.shape == (1, 20) and ids.max() < size and encoder(ids).isfinite().all()
