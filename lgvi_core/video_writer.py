"""Writing a clip: an H.264 or VP9 file, a GIF or a folder of PNG, in a stream, with sound, all or nothing."""

import logging
import math
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from .errors import InputError
from .video_sound import Sound

logger = logging.getLogger(__name__)

# A chroma sample is the mean of the pixels it covers. Reading repeats it over them, so what nobody changed is encoded
# from exactly the values that the source was decoded to.
TO_YUV = Interpolation.AREA | Interpolation.ACCURATE_RND
THREADS = 4  # part of what x264 decides by: fixed, so that the same frames give the same bytes on any machine
WRITER_NAME = re.compile(r"\d{5,}\.png")


@dataclass(frozen=True)
class Colour:
    """How YUV and RGB relate in a file: FFmpeg's numbers, whose "unspecified" is 2 (0 for the range)."""

    matrix: int = 2
    range: int = 0  # 1: 16..235, 2: 0..255
    primaries: int = 2
    transfer: int = 2

    @classmethod
    def usual(cls, height: int) -> "Colour":
        """What players expect at this height in lines: BT.709 from 720 on, BT.601 below."""
        return cls(1, 1, 1, 1) if height >= 720 else cls(6, 1, 6, 6)

    def swscale_matrix(self, height: int) -> Colorspace:
        """The matrix to convert with; where the file does not say, what players assume at this height in lines."""
        known = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
                 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, 10: Colorspace.BT2020}
        return known.get(self.matrix) or (Colorspace.ITU709 if height >= 720 else Colorspace.ITU601)


@dataclass(frozen=True)
class Format:
    """One kind of output file."""

    container: str
    codec: str
    pixel_format: str
    bytes_per_pixel: float  # a generous guess, for the check of the disk
    codec_options: dict = field(default_factory=dict)
    container_options: dict = field(default_factory=dict)
    sound_codec: str | None = None  # for sound that the container cannot hold as it is; None: no sound at all
    time_base: Fraction | None = None  # None: fine enough for any timing


X264 = {"crf": "16", "preset": "medium"}
if platform.machine() in ("x86_64", "AMD64"):
    X264["x264-params"] = "asm=sse4.2"  # at some sizes (854x480) its AVX-512 code gives other bytes at every run
VP9 = {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "1"}
FASTSTART = {"movflags": "+faststart"}
FORMATS = {
    ".mp4": Format("mp4", "libx264", "yuv420p", 0.3, X264, FASTSTART, "aac"),
    ".mov": Format("mov", "libx264", "yuv420p", 0.3, X264, FASTSTART, "aac"),
    ".mkv": Format("matroska", "libx264", "yuv420p", 0.3, X264, {}, "aac"),
    ".webm": Format("webm", "libvpx-vp9", "yuv420p", 0.3, VP9, {}, "libopus"),
    ".gif": Format("gif", "gif", "pal8", 1.0, {}, {"loop": "0"}, None, Fraction(1, 100)),
}
PICTURE = Format("picture", "png", "rgb24", 2.0)
PNG_BYTES_PER_PIXEL = 2.0


class VideoWriter:
    """Write (H, W, 3) uint8 RGB frames one by one; the result appears at `path` when the `with` block ends well.

    The ending of `path` says what is written: .mp4 .mov .mkv (H.264), .webm (VP9), .gif, .png for a clip of one frame,
    or, with no ending, a "/" at the end or an existing folder, PNG files 00000.png, 00001.png, ... `audio_from` is a
    file whose sound tracks are copied packet by packet, or re-encoded with a warning where the container cannot hold
    them. `colour` and `sample_aspect_ratio` are the source's; only H.264 files keep the latter. H.264 in 4:2:0 has no
    odd sizes: those are written in 4:4:4.
    Until the end everything goes to a hidden name beside `path`; on any exception that is deleted and what was at
    `path` before stays. Raises InputError where `path` cannot be written, at the start or when the disk is full.
    """

    def __init__(self, path: str | os.PathLike, width: int, height: int, frame_rate: Fraction | int,
                 audio_from: str | os.PathLike | None = None, colour: Colour | None = None,
                 sample_aspect_ratio: Fraction | int = 1):
        check_output(path, width, height, source=audio_from)
        self.path = Path(os.path.realpath(path))  # through a link, so that its target is replaced and not the link
        self.width, self.height, self.frame_rate = width, height, Fraction(frame_rate)
        if width < 1 or height < 1 or self.frame_rate <= 0:
            raise ValueError(f"a video of {width}x{height} at {frame_rate} frames a second cannot be written")
        self.audio_from, self.colour, self.sample_aspect_ratio = audio_from, colour, Fraction(sample_aspect_ratio)
        self.frames_written = 0
        self._format = output_format(path)
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._last_time = None
        self._sink = None

    def __enter__(self) -> "VideoWriter":
        if self.audio_from is not None and (self._format is None or self._format.sound_codec is None):
            logger.info("%s can hold no sound: if %s has any, it is left out", self.path, self.audio_from)
        if self.sample_aspect_ratio != 1 and (self._format is None or self._format.codec != "libx264"):
            logger.warning("%s cannot say that its pixels are %s as wide as high: it will look stretched", self.path,
                           self.sample_aspect_ratio)
        try:
            with _clear_disk_errors(self.path):
                self._sink = _sink(self._format)(self._part, self)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Append one (H, W, 3) uint8 RGB frame, shown from `time` in seconds, or one frame after the one before."""
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise ValueError(f"a frame must be {(self.height, self.width, 3)} uint8, not {image.shape} {image.dtype}")
        if time is None:
            time = Fraction(0) if self._last_time is None else self._last_time + 1 / self.frame_rate
        with _clear_disk_errors(self.path):
            self._sink.write(np.ascontiguousarray(image), time)
        self._last_time = time
        self.frames_written += 1

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                if not self.frames_written:
                    raise ValueError(f"no frame was written to {self.path}")
                with _clear_disk_errors(self.path):
                    self._sink.close()
                    _move_into_place(self._part, self.path)
        finally:
            self._discard()

    def _discard(self) -> None:
        if self._sink is not None:
            self._sink.abandon()
        if self._part.is_dir():
            shutil.rmtree(self._part)
        else:
            self._part.unlink(missing_ok=True)


class _PngFolder:
    def __init__(self, folder: Path, video: VideoWriter):
        self.folder, self.count = folder, 0
        folder.mkdir()

    def write(self, image: np.ndarray, time: Fraction) -> None:
        Image.fromarray(image).save(self.folder / f"{self.count:05d}.png", compress_level=3)
        self.count += 1

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class _Picture:
    def __init__(self, part: Path, video: VideoWriter):
        self.part, self.place, self.written = part, video.path, False

    def write(self, image: np.ndarray, time: Fraction) -> None:
        if self.written:
            raise InputError(_one_picture(self.place, "more than one frame"))
        Image.fromarray(image).save(self.part, "PNG", compress_level=3)
        self.written = True

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class _EncodedFile:
    def __init__(self, part: Path, video: VideoWriter):
        form = FORMATS[part.suffix.lower()]
        self.colour = video.colour or Colour.usual(video.height)
        self.rate = video.frame_rate
        ticks = _ticks(self.rate)
        self.time_base = form.time_base or Fraction(1, ticks)
        self.last_pts = None

        options = form.container_options | {"fflags": "+bitexact"}
        if form.container in ("mp4", "mov"):
            options["movie_timescale"] = str(ticks)  # where a track starts is as exact as its frames
        self.container = av.open(str(part), "w", format=form.container, container_options=options)

        self.stream = self.container.add_stream(form.codec, rate=self.rate, options=form.codec_options)
        context = self.stream.codec_context
        context.width, context.height, context.time_base = video.width, video.height, self.time_base
        context.pix_fmt = form.pixel_format
        context.thread_count = THREADS
        context.flags |= int(av.codec.context.Flags.bitexact)
        context.sample_aspect_ratio = video.sample_aspect_ratio
        if form.codec == "libx264" and (video.width % 2 or video.height % 2):
            context.pix_fmt = "yuv444p"
            logger.info("%dx%d is odd: H.264 is written in 4:4:4, which some players cannot show", video.width,
                        video.height)
        self.palette = None
        if form.codec == "gif":
            self.palette = _palette_graph(video.width, video.height, self.time_base)
            if self.rate > 50:
                logger.warning("GIF viewers show at most 50 frames a second: %.6g will play slower", self.rate)
        else:
            context.color_range, context.colorspace = self.colour.range, self.colour.matrix
            context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        self.sound = Sound(self.container, video.audio_from if form.sound_codec else None, form.sound_codec)

    def write(self, image: np.ndarray, time: Fraction) -> None:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        pts = round(time / self.time_base)
        if self.last_pts is not None:
            pts = max(pts, self.last_pts + 1)  # two frames at one time would cost one of them
        self.last_pts = frame.pts = pts
        frame.time_base = self.time_base
        if self.palette:
            self.palette.push(frame)
            frame = self.palette.pull()
        else:
            height = frame.height
            frame = frame.reformat(format=self.stream.pix_fmt, interpolation=TO_YUV,
                                   dst_colorspace=self.colour.swscale_matrix(height),
                                   dst_color_range=self.colour.range or 1)
        self._mux(self.stream.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = packet.duration or max(1, round(1 / self.rate / self.time_base))
            self.sound.mux_until(packet.dts * packet.time_base)
            self.container.mux(packet)

    def close(self) -> None:
        self._mux(self.stream.encode(None))
        self.sound.mux_until(None)
        self.sound.close()
        self.container.close()

    def abandon(self) -> None:
        self.sound.close()
        try:
            self.container.close()
        except (OSError, ValueError) as error:  # the file is deleted anyway
            logger.debug("closing an unfinished file: %s", error)


def _sink(form: Format | None) -> type:
    if form is None:
        return _PngFolder
    return _Picture if form is PICTURE else _EncodedFile


def _one_picture(path, frames: str) -> str:
    return f"{path} can hold one picture, but there are {frames}: write a video or a folder of PNG (no ending)"


def _ticks(rate: Fraction) -> int:
    """Ticks a second in which a frame of this rate is a whole number, and a millisecond if that can be had."""
    exact = math.lcm(rate.numerator, 90000)
    return exact if exact <= 10_000_000 else rate.numerator * math.ceil(90000 / rate.numerator)


def _palette_graph(width: int, height: int, time_base: Fraction) -> av.filter.Graph:
    """A palette of its own for every frame: at most 256 colours stay within 1 of 255, and nothing accumulates."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=time_base)
    split = graph.add("split")
    generate = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def output_format(path: str | os.PathLike) -> Format | None:
    """The kind of file that `path` asks for, None for a folder of PNG; raises InputError for an unknown ending."""
    ending = Path(path).suffix.lower()
    if os.fspath(path).endswith(("/", os.sep)) or Path(path).is_dir() or not ending:
        return None
    if ending == ".png":
        return PICTURE
    if ending not in FORMATS:
        raise InputError(f"{path}: unknown ending {ending!r}; write to one of {' '.join(FORMATS)}, to .png where there "
                         "is one frame, or to a folder of PNG (a name without an ending, or with a / at its end)")
    return FORMATS[ending]


def check_output(path: str | os.PathLike, width: int, height: int, frame_count: int | None = None,
                 source: str | os.PathLike | None = None) -> None:
    """Raise InputError where `path` cannot become the result of a (frame_count, height, width) clip; make its folder.

    Looked at: the ending, what stands there now, whether it is the `source` itself, the right to write, free space.
    """
    form, path = output_format(path), Path(path)
    place = Path(os.path.realpath(path))
    if source is not None and place in (Path(os.path.realpath(source)), *Path(os.path.realpath(source)).parents):
        raise InputError(f"{path} is or holds {source}, which is read: write to another place")
    if form is None and path.exists():
        if not path.is_dir():
            raise InputError(f"{path} is a file, and a name without an ending means a folder of PNG: give an ending, "
                             f"one of {' '.join(FORMATS)}")
        foreign = sorted(item.name for item in path.iterdir() if not WRITER_NAME.fullmatch(item.name))
        if foreign:
            raise InputError(f"the folder {path} holds {foreign[0]!r}, which is no numbered PNG of an earlier run: "
                             "give a new or an empty folder")
    if form is PICTURE and frame_count not in (None, 1):
        raise InputError(_one_picture(path, f"{frame_count} frames"))
    standing = next(parent for parent in place.parents if parent.exists())
    if not standing.is_dir():
        raise InputError(f"{path} cannot be written: {standing} is a file, not a folder")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write in {standing}; give another place")
    per_pixel = PNG_BYTES_PER_PIXEL if form is None else form.bytes_per_pixel
    needed, free = int(width * height * (frame_count or 0) * per_pixel), shutil.disk_usage(standing).free
    if needed > free:
        raise InputError(f"too little disk for {path}: about {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free "
                         f"in {standing}; make room or give another place")
    place.parent.mkdir(parents=True, exist_ok=True)


def _move_into_place(part: Path, path: Path) -> None:
    """Rename; a folder that is in the way steps aside first and comes back if the renaming fails."""
    if not path.is_dir():
        os.replace(part, path)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.rename(path, aside)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside)


@contextmanager
def _clear_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror or error}), and nothing was left behind: make "
                         "room or give another place") from error
