"""Judge results on a dataset: `python -m train.evaluate --checkpoint C --data D`.

    python -m train.evaluate --checkpoint out/lgvi --data data/rovi --method identity --method telea
    python -m train.evaluate --data data/triplets --results other-tool --results another --limit 50
    python -m train.evaluate --data synthetic held_out=true clips=50 --checkpoint out/demo/checkpoint.safetensors
    python -m train.evaluate demo
    python -m train.evaluate fill --checkpoint out/fill/checkpoint.safetensors
    python -m train.evaluate propagate --checkpoint out/fill/checkpoint.safetensors
    python -m train.evaluate style --checkpoint out/fill/checkpoint.safetensors --personal out/outline/lora.safetensors
    python -m train.evaluate talk --checkpoint out/train/talk/request-encoder.safetensors

Writes OUTPUT.json, OUTPUT.md with the table, OUTPUT-METHOD.png with the worst and best samples of each method, and
OUTPUT.jsonl with every sample's numbers: the same command goes on from there where it was interrupted. The measures are
defined in `lgvi_core.metrics`. `demo` judges the demo checkpoint on drawn clips, see
`train.evaluation.demo`, `fill` one that fills by prompt, see `train.evaluation.fill`, and `propagate` how it follows
keyframes, see `train.evaluation.propagate`; `style` judges it with a personal style merged into it, see
`train.evaluation.style`; `talk` judges a reader of requests and what comes of them, see
`train.evaluation.talk`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
import yaml

from lgvi_core.errors import InputError

from .data.sources import KINDS, detect, open_source
from .evaluation import demo, files, fill, propagate, style, talk
from .evaluation.measures import Networks
from .evaluation.methods import BASELINES, Folder, Model
from .evaluation.quiet import only_errors
from .evaluation.run import Evaluation
from .evaluation.table import markdown

log = logging.getLogger(__name__)

# What is judged on drawn clips.
DRAWN = {
    "demo": demo.main, "fill": fill.main, "propagate": propagate.main, "style": style.main, "talk": talk.main
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if arguments and arguments[0] in DRAWN:
            DRAWN[arguments[0]](arguments[1:])
        else:
            _evaluate(_parser().parse_args(arguments))
    except InputError as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("%s; what is measured is kept", error)
        return 2
    except KeyboardInterrupt:
        log.error("interrupted; what is measured is kept, the same command goes on")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is judged (each may be given several times)")
    what.add_argument("--checkpoint", type=Path, action="append", default=[], help="a checkpoint file or folder")
    what.add_argument("--method", choices=BASELINES, action="append", default=[], help="a baseline")
    what.add_argument(
        "--results", type=Path, action="append", default=[], help="a folder with a video or frames for each sample"
    )
    data = parser.add_argument_group("on what")
    data.add_argument("--data", required=True, help="the dataset's folder, or 'synthetic'")
    data.add_argument("--kind", choices=KINDS, help="the dataset's layout; default: found out")
    data.add_argument("--split", help="default: test for ROVI, else the layout's own")
    data.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further settings of the dataset")
    data.add_argument("--limit", type=_positive, help="only the first so many samples")
    data.add_argument("--frames", type=_positive, help="only the first so many frames; default: all")
    how = parser.add_argument_group("how")
    how.add_argument("--output", type=Path, default=Path("evaluation.json"), help="default: evaluation.json")
    how.add_argument("--seed", type=int, default=0, help="of the noise, and of drawn clips")
    how.add_argument("--steps", type=_positive, help="sampling steps; default: what the checkpoint recommends")
    how.add_argument("--device", help="default: cuda where there is one, else cpu")
    how.add_argument("--i3d", type=Path, metavar="FILE", help="rgb_imagenet.pt, for VFID")
    how.add_argument("--raft", type=Path, metavar="FILE", help="raft_large's weights, for E_warp; else OpenCV's DIS")
    how.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model, for TC and the CLIP score")
    return parser


def _evaluate(options: argparse.Namespace) -> None:
    if options.output.suffix != ".json":
        raise InputError(f"--output is {options.output}; it must end in .json")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    methods = [
        *(Model(path, options.seed, options.steps, options.device) for path in options.checkpoint),
        *(BASELINES[name]() for name in dict.fromkeys(options.method)),
        *(Folder(path) for path in options.results),
    ]
    if not methods:
        raise InputError("nothing to judge: give --checkpoint, --method or --results")
    source, data = _open(options)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    networks = Networks.open(options.i3d, options.raft, options.clip, device)
    extent = {"limit": options.limit, "frames": options.frames, "seed": options.seed}
    evaluation = Evaluation(source, data, methods, networks, options.output, **extent)
    with only_errors():
        report = evaluation.run()
    text = markdown(report)
    files.write_json(report, options.output)
    files.write_text(text, options.output.with_suffix(".md"))
    print(text)
    sheets = ", ".join(str(evaluation.sheet(method.name)) for method in methods)
    print(f"written to {options.output} and {options.output.with_suffix('.md')}; worst and best samples: {sheets}")


def _open(options: argparse.Namespace) -> tuple[object, dict]:
    """The dataset, and what the report says of it. Samples that do not fit are left out and counted."""
    settings = {}
    for setting in options.settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r} is not of the form key=value")
        settings[key] = yaml.safe_load(value)
    if options.data == "synthetic":
        kind = "synthetic"
    else:
        kind = options.kind or detect(options.data)
        split = options.split or ("test" if kind == "rovi" else None)
        settings |= {"root": options.data, "skip_broken": True} | ({"split": split} if split else {})
    source = open_source("data", {"kind": kind, **settings}, options.seed)
    told = {key: value for key, value in settings.items() if key not in ("root", "skip_broken")}
    return source, {"kind": kind, "root": options.data, **told, "samples": len(source)}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
