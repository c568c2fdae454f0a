"""The videos and pictures that the nodes write for the page."""

from fractions import Fraction

import numpy as np
import torch
from small import ours
from videos import as_video, noise, remove, shown_file, that_finds


def check_shown_videos_seek_at_once_and_fit_the_page():
    import av

    show = ours("nodes.preview_video")
    names = set()
    for (width, height), expected in {(16, 16): (16, 16), (35, 17): (36, 16), (1, 1): (2, 2), (1600, 300): (768, 144),
                                      (200, 1000): (154, 768)}.items():  # fmt: skip
        frames = noise(3, height, width).numpy()
        file = show.show_video(frames, Fraction(30000, 1001))
        names.add(file["filename"])
        with av.open(shown_file(file)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height) == expected and stream.average_rate == Fraction(30000, 1001)
            shown = list(container.decode(stream))
        assert len(shown) == 3 and all(frame.key_frame for frame in shown)
        picture = show.show_picture(frames[0])
        from PIL import Image

        with Image.open(shown_file(picture)) as image:
            assert image.format == "PNG" and max(image.size) == min(768, max(width, height))
    assert len(names) == 5


def check_shown_colours_are_the_frames_own():
    import av

    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [1, 1, 1.2], [0.2, 0.6, 0.9]])
    file = ours("nodes.preview_video").show_video(colours[:, None, None].expand(-1, 32, 32, -1).numpy(), Fraction(24))
    with av.open(shown_file(file)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(shown[:, 16, 16] / 255.0 - colours.clamp(0, 1).numpy()).max() < 0.03


def check_the_sampler_shows_before_and_after():
    import av

    frames = torch.full((5, 32, 32, 3), 0.2)
    hole = torch.zeros(32, 32)
    hole[8:24, 8:24] = 1
    _, ui = remove(that_finds("everything"), as_video(frames), mask=hole, dilation=0.0)
    shown = {}
    for name in ("before", "after"):
        with av.open(shown_file(ui[name])) as container:
            shown[name] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255.0
    assert shown["before"].shape == shown["after"].shape == (5, 32, 32, 3)
    difference = np.abs(shown["before"] - shown["after"]).max(axis=(0, 3))
    assert difference[10:22, 10:22].mean() > 0.1 > difference[:5].max()
