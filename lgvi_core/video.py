"""Reading a clip: whatever PyAV opens, a folder of numbered pictures or one picture, frame by frame."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Interpolation
from PIL import Image, ImageOps

from .errors import InputError
from .video_sound import start_of
from .video_writer import Colour, VideoWriter, check_output

__all__ = ["Colour", "Frame", "VideoSource", "VideoWriter", "check_output", "open_video"]

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TEXT_AS_VIDEO = ("tty",)  # FFmpeg plays text files as terminal screens
# A chroma sample is repeated over the pixels it covers: the exact reverse of how VideoWriter takes their mean. For that
# it counts as lying in their middle, wherever the file puts it; half a pixel of colour is the most that this moves.
TO_RGB = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Frame(NamedTuple):
    """One picture as a player shows it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    time: Fraction | None  # seconds from the start of the file; None where the file does not say


@dataclass
class VideoSource:
    """A clip that can be iterated as often as wanted, one `Frame` in memory at a time."""

    path: Path | None  # None: frames in memory
    width: int  # as displayed: rotation applied
    height: int
    frame_rate: Fraction
    frame_count: int | None  # from the container; after a whole pass the number of frames that there were
    has_audio: bool
    colour: Colour | None  # None: the source is RGB
    sample_aspect_ratio: Fraction  # width of a displayed pixel by its height
    read: Callable[["VideoSource"], Iterator[Frame]] = field(repr=False)

    def __iter__(self) -> Iterator[Frame]:
        return self.read(self)


def open_video(path: str | os.PathLike, frame_rate: Fraction | int = 24) -> VideoSource:
    """Open a video file, a folder of pictures of one size in natural order, or one picture (a clip of one frame).

    `frame_rate` is that of pictures; a video has its own. Frames are 8 bit (more is reduced) and turned as the file
    says; what is transparent is shown on white; the alpha layer of a WebM is not looked at. Subtitles and chapters are
    not read. Raises InputError where there is nothing to open or no frame decodes; of a file that is cut off or
    damaged, the frames that decode are used and a warning is logged.
    """
    path = Path(path)
    if frame_rate <= 0:
        raise InputError(f"a frame rate of {frame_rate} is not possible: give frames a second, more than 0")
    if not path.exists():
        raise InputError(f"{path} does not exist: give a video file or a folder of numbered pictures")
    if path.is_dir():
        return _open_folder(path, Fraction(frame_rate))
    if path.suffix.lower() in PICTURE_ENDINGS:
        return _open_picture(path, Fraction(frame_rate))
    return _open_file(path)


# Video files


def _open_file(path: Path) -> VideoSource:
    with _container(path) as container:
        stream = _video_stream(container, path)
        first = next(_decoded(stream, _Losses()), None)
        if first is None:
            raise InputError(f"{path} has no frame that can be decoded: it is damaged, cut off or empty")
        flipped, _ = _orientation(first)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        rate = _frame_rate(stream)
        return VideoSource(
            path=path,
            width=first.height if flipped else first.width,
            height=first.width if flipped else first.height,
            frame_rate=rate,
            frame_count=stream.frames or _frames_by_duration(stream, rate),
            has_audio=bool(container.streams.audio),
            colour=_colour(first),
            sample_aspect_ratio=1 / aspect if flipped else aspect,
            read=_file_frames,
        )


def _file_frames(source: VideoSource) -> Iterator[Frame]:
    losses, count, last_index, first_time, time = _Losses(), 0, -1, None, None
    with _container(source.path) as container:
        stream = _video_stream(container, source.path)
        origin = start_of(container)
        to_rgb = _ToRgb()
        for decoded in _decoded(stream, losses):
            time = None
            if decoded.pts is not None:
                time = decoded.pts * stream.time_base - origin
                first_time = time if first_time is None else first_time
                index = round((time - first_time) * source.frame_rate)
                on_grid = first_time + index / source.frame_rate
                # Containers round times (WebM to 1 ms): a constant rate that only rounding disturbed is given back.
                if abs(on_grid - time) < stream.time_base and index > last_index:
                    time, last_index = on_grid, index
            yield Frame(to_rgb(decoded), time)
            count += 1
        length = time - first_time + 1 / source.frame_rate if time is not None else Fraction(0)
        _report(source, stream, count, length, losses)
    source.frame_count = count


@dataclass
class _Losses:
    undecodable: int = 0  # packets, or the place where the file cannot be read on
    damaged: int = 0  # frames that came out, but not whole
    hidden: int = 0  # packets that the file itself does not want shown


def _decoded(stream: av.VideoStream, losses: _Losses) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; the rest is counted in `losses`."""
    packets = stream.container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file cannot be read on: what the decoder still holds comes out
            losses.undecodable, packet = losses.undecodable + 1, None
        if packet is not None and packet.is_corrupt:  # cut off in the middle
            losses.undecodable += 1
            continue
        losses.hidden += packet is not None and packet.is_discard
        try:
            frames = stream.decode(packet)
        except EOFError:  # the decoder is empty
            return
        except av.FFmpegError:
            losses.undecodable, frames = losses.undecodable + 1, []
        for frame in frames:
            losses.damaged += frame.is_corrupt
            yield frame
        if packet is None:
            return


def _report(source: VideoSource, stream: av.VideoStream, count: int, length: Fraction, losses: _Losses) -> None:
    """Log what of the file could not be used; raise InputError where nothing could."""
    if not count:
        raise InputError(f"{source.path} has no frame that can be decoded: it is damaged, cut off or empty")
    expected = stream.frames - losses.hidden if stream.frames else _frames_by_duration(stream, source.frame_rate)
    # A count may include frames that only repeat (AVI), a length may be rounded: short is what both call so.
    slack = Fraction(0) if stream.frames else max(2 / source.frame_rate, Fraction(1, 5))
    short = expected is not None and count < expected and length + slack < expected / source.frame_rate
    if short or losses.undecodable:
        logger.warning("%s is cut off or damaged: %d of %s frames can be decoded, and only those are used",
                       source.path, count, max(expected, count) if expected else "an unknown number of")
    if losses.damaged:
        logger.warning("%s: %d of its frames are damaged", source.path, losses.damaged)


def _container(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(os.path.realpath(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        with path.open("rb") as file:
            cut_off = file.read(12)[4:8] == b"ftyp"
        why = ("its index (moov) is missing, as in a download or a recording that was cut off: get the whole file"
               if cut_off else "give a video such as mp4, mov, webm, mkv, avi or gif, or a folder of numbered pictures")
        raise InputError(f"{path} cannot be read as a video ({error.strerror}): {why}") from error
    if container.format.name in TEXT_AS_VIDEO:
        container.close()
        raise InputError(f"{path} is a text file: give a video, or a folder of numbered pictures")
    return container


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        what = "only sound" if container.streams.audio else "no picture, or is cut off"
        raise InputError(f"{path} has {what}: give a whole file with a video track")
    if streams[0].codec_context is None:
        raise InputError(f"the video in {path} cannot be decoded: its kind is unknown, or the file is cut off; get the "
                         "whole file or convert it to mp4")
    return streams[0]


def _frame_rate(stream: av.VideoStream) -> Fraction:
    """The average rate; where the timestamps' own grid is all but the same, that, since it is exact."""
    average, grid = stream.average_rate, stream.base_rate
    if stream.frames > 1 and stream.duration:  # of a GIF the average that FFmpeg gives is its first frame's
        average = stream.frames / (stream.duration * stream.time_base)
    if average and grid and abs(grid - average) <= average / 20:
        return grid
    return average or grid or Fraction(24)


def _frames_by_duration(stream: av.VideoStream, rate: Fraction) -> int | None:
    """How many frames the length of the track makes, where the length of the track itself is known."""
    if stream.duration:
        seconds = stream.duration * stream.time_base
    elif tag := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska, WebM
        seconds = int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3]) - (stream.start_time or 0) * stream.time_base
    elif stream.container.duration and not stream.container.streams.audio:
        seconds = Fraction(stream.container.duration, av.time_base)
    else:
        return None
    return max(1, round(seconds * rate))


def _colour(frame: av.VideoFrame) -> Colour | None:
    if frame.format.is_rgb or frame.format.has_palette or frame.colorspace == 0:
        return None
    full = frame.format.name.startswith("yuvj")
    return Colour(frame.colorspace, 2 if full else frame.color_range, frame.color_primaries or 2, frame.color_trc or 2)


def _orientation(frame: av.VideoFrame) -> tuple[bool, Callable[[np.ndarray], np.ndarray]]:
    """Whether width and height change places for display, and the function (H, W, C) -> (H, W, C) that turns it."""
    sides = {side.type: side for side in frame.side_data.keys()}
    if SideDataType.DISPLAYMATRIX not in sides:
        return False, lambda image: image
    a, b, _, c, d = np.frombuffer(bytes(sides[SideDataType.DISPLAYMATRIX]), np.int32)[:5].astype(float)
    # (x, y) of the stored picture is shown at (a x + c y, b x + d y); other angles go to the nearest right one.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, lambda image: image[::-1 if d < 0 else 1, ::-1 if a < 0 else 1]
    return True, lambda image: image.transpose(1, 0, 2)[::-1 if b < 0 else 1, ::-1 if c < 0 else 1]


class _ToRgb:
    """Turn decoded frames into (H, W, 3) uint8 RGB as displayed, all of the first one's size and turned like it."""

    def __init__(self):
        self.size = self.turn = self.kind = self.centred = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self.size is None:  # a frame that was asked for its side data stays in memory until the next collection
            self.size, (_, self.turn) = (frame.width, frame.height), _orientation(frame)
        colour = _colour(frame)
        seen_through = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
        converted = self._with_centred_chroma(frame).reformat(
            *self.size, format="rgba" if seen_through else "rgb24", interpolation=TO_RGB,
            src_colorspace=colour and colour.swscale_matrix(frame.height),
            src_color_range=colour and (colour.range or 1))
        image = converted.to_ndarray()
        return np.ascontiguousarray(self.turn(_on_white(Image.fromarray(image)) if seen_through else image))

    def _with_centred_chroma(self, frame: av.VideoFrame) -> av.VideoFrame:
        kind = (frame.format.name, frame.width, frame.height)
        if kind != self.kind:
            self.kind, self.centred = kind, av.filter.Graph()
            source = self.centred.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                             time_base=Fraction(1, 1000))
            centre = self.centred.add("setparams", "chroma_location=center")
            source.link_to(centre)
            centre.link_to(self.centred.add("buffersink"))
            self.centred.configure()
        self.centred.push(frame)
        return self.centred.pull()


# Pictures


def _open_folder(path: Path, frame_rate: Fraction) -> VideoSource:
    files = [file for file in path.iterdir()
             if file.suffix.lower() in PICTURE_ENDINGS and not file.name.startswith(".")]
    if not files:
        raise InputError(f"the folder {path} holds no pictures: give numbered files such as 00000.png "
                         f"({' '.join(PICTURE_ENDINGS)})")
    files.sort(key=lambda file: [int(part) if part.isdecimal() else part.lower()
                                 for part in re.split(r"([0-9]+)", file.name)])
    sizes = [_picture_size(file) for file in files]
    for file, size in zip(files, sizes):
        if size != sizes[0]:
            raise InputError(f"the pictures of a folder must be of one size: {files[0]} is "
                             f"{sizes[0][0]}x{sizes[0][1]}, {file} is {size[0]}x{size[1]}")

    def read(source: VideoSource) -> Iterator[Frame]:
        for index, file in enumerate(files):
            with _picture(file) as picture:
                yield Frame(_picture_rgb(picture, file), index / frame_rate)

    return VideoSource(path, *sizes[0], frame_rate, len(files), False, None, Fraction(1), read)


def _open_picture(path: Path, frame_rate: Fraction) -> VideoSource:
    """One picture; of an animated WebP or PNG, its frames and their times; of a TIFF, its pages."""
    with _picture(path) as picture:
        count = picture.n_frames if picture.format in ("WEBP", "PNG", "TIFF") else 1
        _picture_rgb(picture, path)  # it decodes, and now the time that it is shown is known
        frame_rate = 1 / (_time_shown(picture) or 1 / frame_rate)

    def read(source: VideoSource) -> Iterator[Frame]:
        time = Fraction(0)
        with _picture(path) as picture:
            for index in range(count):
                picture.seek(index)
                yield Frame(_picture_rgb(picture, path), time)
                time += _time_shown(picture) or 1 / frame_rate

    return VideoSource(path, *_picture_size(path), frame_rate, count, False, None, Fraction(1), read)


def _time_shown(picture: Image.Image) -> Fraction:
    return Fraction(picture.info.get("duration", 0)).limit_denominator(1000) / 1000  # from milliseconds


def _picture(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error


def _picture_size(path: Path) -> tuple[int, int]:
    with _picture(path) as picture:
        turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientation: width and height change places
        return picture.size[::-1] if turned else picture.size


def _picture_rgb(picture: Image.Image, path: Path) -> np.ndarray:
    try:
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is a damaged picture: {error}") from error
    if picture.mode.startswith("I"):  # 16 bit grey
        picture = Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8))
    return _on_white(picture)


def _on_white(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture of any mode."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))
