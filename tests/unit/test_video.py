"""Reading and writing clips: counts, rates, timing, sound, colours, damage, and nothing half-written."""

import gc
import logging
import os
import resource
import shutil
import weakref
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from lgvi_core import video, video_writer
from lgvi_core.errors import InputError
from lgvi_core.video import Colour, VideoWriter, check_output, open_video

WIDTH, HEIGHT = 64, 48
FINE = Fraction(1, 90000)
BARS = [(255, 255, 255), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191),
        (40, 100, 160)]


def picture(index, width=WIDTH, height=HEIGHT):
    """A smooth picture whose red level tells its index."""
    y, x = np.mgrid[:height, :width]
    red = np.full((height, width), 20 + index * 5 % 200)
    return np.stack([red, 60 + x * 128 // width, 60 + y * 128 // height], -1).astype(np.uint8)


def make_video(path, count=24, rate=Fraction(25), codec="libx264", sound=(), seconds=None, sound_start=0, times=None,
               size=(WIDTH, HEIGHT), rotation=None, frames=None, pixel_format="yuv420p", colour=None, options=None,
               codec_options=None):
    """A clip made with PyAV alone; `frames` are ready VideoFrames, `times` their times in seconds."""
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = FINE
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        if colour:
            context = stream.codec_context
            context.colorspace, context.color_range = colour.matrix, colour.range
            context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        packets = []
        for number, sound_codec in enumerate(sound):
            track = container.add_stream(sound_codec, rate=48000, layout="stereo")
            packets += encode_tone(track, 440 + 220 * number, seconds or count / rate, sound_start)
        for index in range(count):
            frame = frames[index] if frames else av.VideoFrame.from_ndarray(picture(index, *size))
            frame.pts, frame.time_base = round((times[index] if times else index / rate) / FINE), FINE
            packets += stream.encode(frame.reformat(format=pixel_format))
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def encode_tone(track, frequency, seconds, start):
    wave = (12000 * np.sin(2 * np.pi * frequency * np.arange(int(48000 * seconds)) / 48000)).astype(np.int16)
    packets = []
    for at in range(0, len(wave), 1024):
        both = np.repeat(wave[at:at + 1024], 2)[None]
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), at + int(start * 48000)
        packets += track.encode(frame)
    return packets + track.encode(None)


def sound_packets(path):
    """For every sound track: codec, [(time in seconds, bytes), ...]."""
    with av.open(str(path)) as container:
        tracks = {track.index: (track.codec_context.codec.canonical_name, []) for track in container.streams.audio}
        for packet in container.demux(audio=list(range(len(tracks)))) if tracks else ():
            if packet.dts is not None:
                tracks[packet.stream.index][1].append((packet.pts * packet.time_base, bytes(packet)))
    return list(tracks.values())


def write(path, images, rate=25, **options):
    height, width = images[0].shape[:2]
    with VideoWriter(path, width, height, rate, **options) as writer:
        for image in images:
            writer.write(image)
    return path


def copy(source_path, path):
    source = open_video(source_path)
    with VideoWriter(path, source.width, source.height, source.frame_rate, audio_from=source_path, colour=source.colour,
                     sample_aspect_ratio=source.sample_aspect_ratio) as writer:
        for image, time in source:
            writer.write(image, time)
    return path


def error(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


# Counts, rates, sizes


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(25, 2)])
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_every_frame_and_the_exact_rate_survive(tmp_path, ending, rate):
    path = write(tmp_path / f"clip{ending}", [picture(index) for index in range(30)], rate)
    clip = open_video(path)
    frames = list(clip)
    assert (clip.frame_rate, clip.frame_count, clip.width, clip.height) == (rate, 30, WIDTH, HEIGHT)
    assert [frame.time for frame in frames] == [index / rate for index in range(30)]
    assert max(error(frame.image, picture(index)) for index, frame in enumerate(frames)) < 2


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30), Fraction(25, 2), Fraction(15)])
def test_a_gif_keeps_count_and_rate_without_drifting(tmp_path, rate):
    path = write(tmp_path / "clip.gif", [picture(index) for index in range(40)], rate)
    clip = open_video(path)
    times = [frame.time for frame in clip]
    assert clip.frame_rate == rate and len(times) == 40
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
    with av.open(str(path)) as container:
        stored = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert max(abs(time - index / rate) for index, time in enumerate(stored)) <= Fraction(1, 200)


def test_a_gif_of_few_colours_keeps_them(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    images = [colours[np.random.default_rng(index).integers(0, 200, (HEIGHT, WIDTH))] for index in range(4)]
    frames = list(open_video(write(tmp_path / "clip.gif", images)))
    assert len(frames) == 4
    assert max(np.abs(frame.image.astype(int) - image).max() for frame, image in zip(frames, images)) <= 1


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".gif", ""])
@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48), (1, 1)])
def test_odd_sizes_stay(tmp_path, ending, size):
    path = write(tmp_path / f"clip{ending}", [picture(index, *size) for index in range(3)])
    clip = open_video(path)
    assert (clip.width, clip.height) == size
    assert [frame.image.shape for frame in clip] == [(size[1], size[0], 3)] * 3


def test_one_frame_and_a_second_pass(tmp_path):
    clip = open_video(write(tmp_path / "clip.mp4", [picture(3)]))
    assert [len(list(clip)), len(list(clip)), clip.frame_count] == [1, 1, 1]


def test_pixels_that_are_not_square_stay_so_or_it_is_said(tmp_path, caplog):
    path = write(tmp_path / "clip.mp4", [picture(0)] * 2, sample_aspect_ratio=Fraction(4, 3))
    assert open_video(path).sample_aspect_ratio == Fraction(4, 3)
    assert open_video(copy(path, tmp_path / "copy.mkv")).sample_aspect_ratio == Fraction(4, 3) and not caplog.text
    copy(path, tmp_path / "copy.webm")
    assert "stretched" in caplog.text


@pytest.mark.parametrize("rotation", [(90,), (180,), (270,), (90, True, False), (0, True, False), (0, False, True)])
def test_rotation_is_applied_once_and_for_all(tmp_path, rotation):
    path = make_video(tmp_path / "phone.mp4", count=3, rotation=rotation)
    expected = np.rot90(picture(0), rotation[0] // 90)
    expected = expected[:, ::-1] if rotation[1:] == (True, False) else expected
    expected = expected[::-1] if rotation[1:] == (False, True) else expected
    clip = open_video(path)
    assert (clip.height, clip.width) == expected.shape[:2]
    assert error(next(iter(clip)).image, expected) < 2
    turned = open_video(copy(path, tmp_path / "copy.mp4"))
    assert error(next(iter(turned)).image, expected) < 4


# Timing and sound


def uneven_times(count):
    return [Fraction(int(ms), 1000) for ms in np.random.default_rng(1).integers(20, 90, count).cumsum() - 20]


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_a_variable_frame_rate_keeps_its_timing(tmp_path, ending):
    times = uneven_times(24)
    source = make_video(tmp_path / "source.mp4", times=times)
    start = times[0]
    assert [frame.time for frame in open_video(source)] == [time - start for time in times]
    result = open_video(copy(source, tmp_path / f"result{ending}"))
    # WebM rounds to a millisecond, and a time that lies so near to the average rate is read as that.
    allowed = 0 if ending == ".mp4" else Fraction(1, 1000)
    assert all(abs(frame.time - time + start) <= allowed for frame, time in zip(result, times, strict=True))


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_every_sound_track_is_copied_bit_for_bit(tmp_path, ending):
    source = make_video(tmp_path / "source.mp4", sound=("aac", "aac"), seconds=1.7)  # longer than the picture
    assert open_video(source).has_audio
    before, after = sound_packets(source), sound_packets(copy(source, tmp_path / f"result{ending}"))
    assert len(after) == 2
    for (_, old), (_, new) in zip(before, after):
        assert [data for _, data in new] == [data for _, data in old]
    if ending != ".mkv":  # Matroska has no time before 0: there picture and sound move together
        assert [[time for time, _ in track] for _, track in after] == [[time for time, _ in t] for _, t in before]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_picture_and_sound_keep_their_distance(tmp_path, ending):
    late_sound = make_video(tmp_path / "late_sound.mp4", sound=("aac",), sound_start=0.25)
    late_picture = make_video(tmp_path / "late_picture.mp4", sound=("aac",),
                              times=[Fraction(3, 10) + index / Fraction(25) for index in range(24)])
    for source in (late_sound, late_picture):
        result = copy(source, tmp_path / f"result{ending}")
        copied = ending != ".webm"
        assert abs(distance(result, copied) - distance(source, copied)) < Fraction(1, 500)


def distance(path, packets):
    """Seconds from the first sound to the first picture: as stored, encoder's delay included, or as decoded."""
    starts = []
    for kind in ("audio", "video"):
        with av.open(str(path)) as container:
            stream = container.streams.best(kind)
            if packets:
                first = min(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            else:
                first = next(container.decode(stream)).pts
            starts.append(first * stream.time_base)
    return starts[1] - starts[0]


def test_a_transport_stream_starts_at_zero_in_step(tmp_path):
    source = make_video(tmp_path / "source.ts", sound=("aac",))
    result = copy(source, tmp_path / "result.mp4")
    assert len(list(open_video(result))) == 24 and len(sound_packets(result)) == 1
    first = next(iter(open_video(result))).time
    assert 0 <= first < Fraction(1, 20) and first == next(iter(open_video(source))).time
    assert abs(distance(result, True) - distance(source, True)) < Fraction(1, 500)


def test_sound_that_webm_cannot_hold_becomes_opus_with_a_warning(tmp_path, caplog):
    source = make_video(tmp_path / "source.mp4", sound=("aac",), count=25)
    with caplog.at_level(logging.WARNING):
        result = copy(source, tmp_path / "result.webm")
    assert "aac" in caplog.text and "libopus" in caplog.text
    [(codec, packets)] = sound_packets(result)
    assert codec == "opus" and abs(packets[-1][0] - 1) < Fraction(1, 25)


def test_opus_passes_from_webm_to_webm_untouched(tmp_path):
    source = make_video(tmp_path / "source.webm", codec="libvpx-vp9", sound=("libopus",))
    assert sound_packets(copy(source, tmp_path / "result.webm")) == sound_packets(source)


@pytest.mark.parametrize("codec, ending, kept", [("flac", ".mp4", True), ("flac", ".mov", False),
                                                 ("alac", ".mp4", True), ("pcm_s16le", ".mov", True)])
def test_what_the_container_takes_decides_over_copying(tmp_path, caplog, codec, ending, kept):
    source = make_video(tmp_path / "source.mkv", sound=(codec,))
    [(_, before)] = sound_packets(source)
    [(name, after)] = sound_packets(copy(source, tmp_path / f"result{ending}"))
    assert ([data for _, data in after] == [data for _, data in before]) is kept
    assert kept or (name == "aac" and "re-encoded" in caplog.text)


@pytest.mark.parametrize("target", ["result.gif", "folder"])
def test_that_sound_is_left_out_is_said(tmp_path, caplog, target):
    source = make_video(tmp_path / "source.mp4", count=3, sound=("aac",))
    with caplog.at_level(logging.INFO):
        copy(source, tmp_path / target)
    assert "no sound" in caplog.text


# Pictures


def test_a_folder_of_png_is_bit_exact(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 256, (12, 30, 40, 3), dtype=np.uint8))
    folder = write(tmp_path / "frames", images)
    assert sorted(os.listdir(folder)) == [f"{index:05d}.png" for index in range(12)]
    clip = open_video(folder, frame_rate=Fraction(30000, 1001))
    assert (clip.frame_count, clip.width, clip.height, clip.has_audio) == (12, 40, 30, False)
    frames = list(clip)
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
    assert frames[3].time == 3 * Fraction(1001, 30000)


def test_a_folder_is_read_in_natural_order(tmp_path):
    for index in (1, 2, 10, 11):
        Image.fromarray(picture(index)).save(tmp_path / f"shot_{index}.jpg", quality=98)
    (tmp_path / "._shot_1.jpg").write_bytes(b"left by a desktop")
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = list(open_video(tmp_path))
    assert [round((int(np.median(frame.image[..., 0])) - 20) / 5) for frame in frames] == [1, 2, 10, 11]


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "one.bmp")
    [(image, time)] = open_video(tmp_path / "one.bmp")
    assert np.array_equal(image, picture(0)) and time == 0


def test_transparent_is_white_and_orientation_and_depth_are_respected(tmp_path):
    Image.fromarray(np.zeros((4, 6, 4), np.uint8)).save(tmp_path / "clear.png")
    assert (next(iter(open_video(tmp_path / "clear.png"))).image == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(tmp_path / "turned.png", exif=exif)
    turned = open_video(tmp_path / "turned.png")
    assert (turned.width, turned.height) == (HEIGHT, WIDTH)
    assert np.array_equal(next(iter(turned)).image, np.rot90(picture(0), -1))
    Image.fromarray(np.full((4, 6), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (next(iter(open_video(tmp_path / "deep.png"))).image == 128).all()


def test_a_gif_shows_white_where_it_is_transparent(tmp_path):
    first = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    first.paste((200, 0, 0, 255), (0, 0, 4, 8))
    first.save(tmp_path / "clear.gif")
    image = next(iter(open_video(tmp_path / "clear.gif"))).image
    assert image[4, 2].tolist() == [200, 0, 0] and image[4, 6].tolist() == [255, 255, 255]


def test_an_animated_webp_keeps_frames_and_times(tmp_path):
    pictures = [Image.fromarray(picture(index)) for index in range(4)]
    pictures[0].save(tmp_path / "clip.webp", save_all=True, append_images=pictures[1:], duration=[40, 80, 40, 40],
                     lossless=True)
    clip = open_video(tmp_path / "clip.webp")
    assert clip.frame_rate == 25
    assert [frame.time for frame in clip] == [Fraction(ms, 1000) for ms in (0, 40, 120, 160)]
    assert np.array_equal(list(clip)[3].image, picture(3))


# Colours


def yuv_bars(matrix, full, width=256, height=64):
    """A yuv420p frame of BARS, computed from the standards' own equations."""
    red_weight, blue_weight = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    planes = [np.zeros((height, width)), np.zeros((height // 2, width // 2)), np.zeros((height // 2, width // 2))]
    for index, (red, green, blue) in enumerate(np.array(BARS) / 255):
        luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
        values = luma, (blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight))
        scales = ((255, 0), (255, 128), (255, 128)) if full else ((219, 16), (224, 128), (224, 128))
        for plane, value, (scale, offset) in zip(planes, values, scales):
            bar = plane.shape[1] // len(BARS)
            plane[:, index * bar:(index + 1) * bar] = round(value * scale + offset)
    flat = np.concatenate([plane.astype(np.uint8).reshape(-1, width) for plane in planes])
    return av.VideoFrame.from_ndarray(flat, format="yuv420p")


def bars_of(image):
    bar = image.shape[1] // len(BARS)
    return image[image.shape[0] // 2, bar // 2::bar]


TAGS = {"bt709": Colour(1, 1, 1, 1), "bt601": Colour(6, 1, 6, 6), "bt709 full": Colour(1, 2, 1, 1),
        "bt601 full": Colour(6, 2, 6, 6), "bt2020": Colour(9, 1, 9, 14)}


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize("name", TAGS)
def test_colours_are_read_right_and_written_back_the_same(tmp_path, name, ending):
    colour = TAGS[name]
    bars = yuv_bars(colour.matrix, colour.range == 2)
    source = make_video(tmp_path / "source.mp4", count=2, frames=[bars, bars], size=(256, 64), colour=colour,
                        codec_options={"qp": "0"})
    clip = open_video(source)
    assert clip.colour == colour
    image = next(iter(clip)).image
    assert np.abs(bars_of(image).astype(int) - BARS).max() <= 2
    result = open_video(copy(source, tmp_path / f"result{ending}"))
    assert result.colour == colour
    again = next(iter(result)).image
    assert error(again, image) < 1 and np.abs(bars_of(again).astype(int) - BARS).max() <= 5


@pytest.mark.parametrize("height, matrix", [(64, 6), (720, 1)])
def test_without_tags_the_height_decides_as_in_players(tmp_path, height, matrix):
    bars = yuv_bars(matrix, False, height=height)
    source = make_video(tmp_path / "source.mp4", count=1, frames=[bars], size=(256, height), codec_options={"qp": "0"})
    clip = open_video(source)
    assert clip.colour.matrix == 2
    image = next(iter(clip)).image
    assert np.abs(bars_of(image).astype(int) - BARS).max() <= 2
    result = open_video(copy(source, tmp_path / "result.mp4"))
    assert result.colour == clip.colour and error(next(iter(result)).image, image) < 1


def test_the_way_to_rgb_and_back_costs_nothing_by_itself(tmp_path):
    source = make_video(tmp_path / "source.mp4", count=1, frames=[yuv_bars(1, False)], size=(256, 64),
                        colour=TAGS["bt709"], codec_options={"qp": "0"})
    with av.open(str(source)) as container:
        bars = next(container.decode(video=0))
    image = video._ToRgb()(bars)
    back = av.VideoFrame.from_ndarray(image).reformat(format="yuv420p", interpolation=video_writer.TO_YUV,
                                                      dst_colorspace=1, dst_color_range=1)
    assert np.array_equal(back.to_ndarray(), bars.to_ndarray())


# What cannot be used


def cut(path, share, target):
    data = path.read_bytes()
    target.write_bytes(data[:int(len(data) * share)])
    return target


@pytest.mark.parametrize("ending, codec, options", [(".mp4", "libx264", {"movflags": "+faststart"}),
                                                    (".webm", "libvpx-vp9", {}), (".mkv", "libx264", {})])
def test_a_file_that_is_cut_off_gives_what_decodes_and_an_honest_count(tmp_path, caplog, ending, codec, options):
    whole = make_video(tmp_path / f"whole{ending}", count=60, codec=codec, options=options, sound=("libopus",))
    assert len(list(open_video(whole))) == 60 and not caplog.text
    clip = open_video(cut(whole, 0.6, tmp_path / f"cut{ending}"))
    frames = list(clip)
    assert 20 < len(frames) < 50 and clip.frame_count == len(frames)
    assert f"{len(frames)} of 60 frames" in caplog.text
    assert all(error(frame.image, picture(round(frame.time * 25))) < 4 for frame in frames)
    result = copy(tmp_path / f"cut{ending}", tmp_path / "result.mp4")
    assert len(list(open_video(result))) == len(frames)


def test_a_hole_in_the_middle_is_reported(tmp_path, caplog):
    path = make_video(tmp_path / "clip.mp4", count=60, options={"movflags": "+faststart"}, codec_options={"crf": "5"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    frames = list(open_video(path))
    assert 0 < len(frames) <= 60 and "damaged" in caplog.text


def only_sound(path):
    with av.open(str(path), "w") as container:
        for packet in encode_tone(container.add_stream("aac", rate=48000, layout="stereo"), 440, 0.2, 0):
            container.mux(packet)


def no_frames(path):
    data = make_video(path, options={"movflags": "+faststart"}).read_bytes()
    path.write_bytes(data[:data.index(b"mdat") + 8])


def two_sizes(folder):
    folder.mkdir()
    for index, size in enumerate([(8, 8), (8, 8), (9, 8)]):
        Image.new("RGB", size).save(folder / f"{index}.png")


UNREADABLE = {
    "missing.mp4": (lambda path: None, "does not exist"),
    "text.mp4": (lambda path: path.write_text("hello " * 100), "cannot be read as a video"),
    "text.txt": (lambda path: path.write_text("hello\n" * 100), "text file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "cannot be read as a video"),
    "no_index.mp4": (lambda path: cut(make_video(path), 0.3, path), "moov"),
    "sound.m4a": (only_sound, "only sound"),
    "half_an_index.mp4": (lambda path: cut(make_video(path), 0.6, path), "cut off"),
    "no_frames.mp4": (no_frames, "no frame"),
    "empty": (lambda path: path.mkdir(), "no pictures"),
    "sizes": (two_sizes, r"2\.png is 9x8"),
    "text.png": (lambda path: path.write_text("hello"), "cannot be read as a picture"),
    "cut.jpg": (lambda path: (Image.fromarray(picture(0)).save(path), cut(path, 0.9, path)), "damaged picture"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_video_is_refused_by_name(tmp_path, name):
    make, message = UNREADABLE[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        list(open_video(tmp_path / name))
    assert name in str(caught.value)


# Where it cannot be written


def test_an_unknown_ending_is_refused_and_the_known_ones_named(tmp_path):
    with pytest.raises(InputError, match=r"\.xyz.*\.mp4.*\.webm.*\.gif.*PNG"):
        check_output(tmp_path / "clip.xyz", 8, 8)


def test_the_source_is_not_written_over(tmp_path):
    source = make_video(tmp_path / "clip.mp4", count=2)
    os.symlink(source, tmp_path / "link.mp4")
    for name in ("clip.mp4", "link.mp4"):
        with pytest.raises(InputError, match="which is read"):
            check_output(tmp_path / name, 8, 8, source=source)
    frames = write(tmp_path / "frames", [picture(0)])
    with pytest.raises(InputError, match="which is read"):
        check_output(frames, 8, 8, source=frames / "00000.png")


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"")
    with pytest.raises(InputError, match="holiday.png"):
        check_output(f"{tmp_path}/", 8, 8)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "clip.mp4"):
        with pytest.raises(InputError, match="is a file"):
            check_output(path, 8, 8)


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # an administrator may write anywhere
    with pytest.raises(InputError, match="no permission"):
        check_output(tmp_path / "clip.mp4", 8, 8)


def test_too_little_disk_is_said_with_both_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    check_output(tmp_path / "clip.mp4", 64, 48, frame_count=100)
    with pytest.raises(InputError, match="400 MB needed, 5 MB free"):
        check_output(tmp_path / "frames", 2000, 1000, frame_count=100)


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "clip.mp4", [picture(0)])
    assert os.listdir(tmp_path / "a" / "b") == ["clip.mp4"]


@pytest.mark.parametrize("target", ["clip.mp4", "clip.webm", "clip.gif", "frames"])
def test_a_full_disk_leaves_no_half_file(tmp_path, target):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(InputError, match=f"{target} could not be written"):
            write(tmp_path / target, [noise] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


# All or nothing


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("target", ["clip.mp4", "clip.webm", "clip.gif", "frames"])
def test_an_interruption_leaves_the_earlier_result_and_nothing_else(tmp_path, target, interruption):
    source = make_video(tmp_path / "source.mp4", sound=("aac",))
    path = write(tmp_path / target, [picture(index) for index in range(3)])
    earlier = [frame.image for frame in open_video(path)]
    with pytest.raises(interruption):
        with VideoWriter(path, WIDTH, HEIGHT, 25, audio_from=source) as writer:
            for index in range(20):
                writer.write(picture(100))
            raise interruption
    assert sorted(os.listdir(tmp_path)) == sorted([target, "source.mp4"])
    assert np.array_equal([frame.image for frame in open_video(path)], earlier)


def test_nothing_stands_at_the_path_before_the_end(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 25) as writer:
        writer.write(picture(0))
        assert not (tmp_path / "clip.mp4").exists()
        assert all(name.startswith(".") and str(os.getpid()) in name for name in os.listdir(tmp_path))
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_a_folder_of_an_earlier_run_is_replaced_whole(tmp_path):
    write(tmp_path / "frames", [picture(index) for index in range(5)])
    write(tmp_path / "frames", [picture(7)] * 2)
    assert sorted(os.listdir(tmp_path / "frames")) == ["00000.png", "00001.png"]
    assert os.listdir(tmp_path) == ["frames"]


def test_a_frame_of_another_shape_and_a_clip_without_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(48, 64, 3\) uint8, not \(8, 8, 3\)"):
        with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 25) as writer:
            writer.write(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="no frame"):
        with VideoWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 25):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".gif"])
def test_the_same_frames_give_the_same_bytes(tmp_path, ending):
    source = make_video(tmp_path / "source.mp4", count=20, sound=("aac",))
    results = {copy(source, tmp_path / f"{run}{ending}").read_bytes() for run in range(4)}
    assert len(results) == 1


@pytest.mark.parametrize("target, count", [("clip.mp4", 1000), ("frames", 1000), ("clip.gif", 100)])
def test_a_long_clip_streams_through(tmp_path, target, count):
    source = make_video(tmp_path / "source.mp4", count=count, size=(32, 24), codec_options={"preset": "ultrafast"})
    images, most = [], 0
    with VideoWriter(tmp_path / target, 32, 24, 25) as writer:
        for image, time in open_video(source):
            images = [earlier for earlier in images if earlier() is not None] + [weakref.ref(image)]
            most = max(most, len(images))
            writer.write(image, time)
    assert most <= 3
    assert sum(1 for _ in open_video(tmp_path / target)) == count


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat_even_between_garbage_collections(tmp_path):
    source = make_video(tmp_path / "source.mp4", count=400, size=(640, 360), codec_options={"preset": "ultrafast"},
                        frames=[av.VideoFrame.from_ndarray(picture(0, 640, 360))] * 400)
    gc.disable()
    try:
        with VideoWriter(tmp_path / "copy.mp4", 640, 360, 25, audio_from=source) as writer:
            for image, time in open_video(source):
                writer.write(image, time)
                if writer.frames_written == 150:  # the encoder has all the frames that it looks ahead to
                    before = resident_bytes()
        assert resident_bytes() - before < 250 * 640 * 360 / 2
    finally:
        gc.enable()
