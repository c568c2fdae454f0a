"""A clip's sound on its way from one file into another: copied packet by packet wherever that is possible."""

import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from .errors import InputError

logger = logging.getLogger(__name__)


@dataclass
class _Track:
    out: av.AudioStream
    copied: bool
    last_dts: int | None = None


class Sound:
    """The sound tracks of `path` on their way into `container`, in step with its video.

    A track that the container cannot hold is re-encoded with `other_codec`, surround sound as stereo.
    """

    def __init__(self, container: av.container.OutputContainer, path: str | os.PathLike | None, other_codec: str):
        self.container, self.source, self.tracks = container, None, {}
        if path is None or Path(path).is_dir():
            return
        try:
            self.source = av.open(os.path.realpath(path), metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"the sound of {path} cannot be read ({error.strerror}): give no audio_from") from error
        self.origin = start_of(self.source)
        for track in self.source.streams.audio:
            if track.codec_context is None:
                logger.warning("sound track %d of %s is of an unknown kind and is left out", track.index, path)
                continue
            if copied := _can_hold(container.format.name, path, track.index):
                out = container.add_stream_from_template(track)
            else:
                channels = min(2, track.layout.nb_channels)
                out = container.add_stream(other_codec, rate=48000, layout=("mono", "stereo")[channels - 1],
                                           bit_rate=96000 * channels)
                logger.warning("a %s file cannot hold %s sound: it is re-encoded with %s", container.format.name,
                               track.codec_context.name, other_codec)
            if language := track.metadata.get("language"):
                out.metadata["language"] = language
            self.tracks[track.index] = _Track(out, copied)
        self.packets = self._packets()
        self.waiting = next(self.packets, None)

    def mux_until(self, time: Fraction | None) -> None:
        """Write the packets that come before `time` in seconds; None: all that are left."""
        while self.tracks and self.waiting is not None:
            if time is not None and self.waiting.dts * self.waiting.time_base > time:
                return
            self.container.mux(self.waiting)
            self.waiting = next(self.packets, None)

    def _packets(self) -> Iterator[av.Packet]:
        demuxed = self.source.demux([self.source.streams[index] for index in self.tracks]) if self.tracks else iter(())
        while True:
            try:
                packet = next(demuxed, None)
            except av.FFmpegError as error:
                logger.warning("the sound of %s ends early: %s", self.source.name, error)
                return
            if packet is None:
                return
            track = self.tracks[packet.stream.index]
            yield from self._copied(packet, track) if track.copied else self._encoded(packet, track.out)

    def _copied(self, packet: av.Packet, track: _Track) -> Iterator[av.Packet]:
        if packet.dts is None or packet.is_corrupt:  # the end, or cut off
            return
        shift = round(self.origin / packet.time_base)
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        if not packet.duration and track.last_dts is not None:  # an mp4 would not play a last packet of no length
            packet.duration = packet.dts - track.last_dts
        track.last_dts = packet.dts
        packet.stream = track.out
        yield packet

    def _encoded(self, packet: av.Packet, out: av.AudioStream) -> Iterator[av.Packet]:
        at_the_end = packet.dts is None
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            logger.warning("a piece of the sound of %s cannot be decoded: %s", self.source.name, error)
            frames = []
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self.origin / frame.time_base)
            yield from out.encode(frame)
        if at_the_end:
            yield from out.encode(None)

    def close(self) -> None:
        if self.source is not None:
            self.packets.close()
            self.source.close()


def _can_hold(form: str, path: str | os.PathLike, track_index: int) -> bool:
    """Try it with the first packet: what a muxer says it supports is not what it accepts (FLAC in a mov)."""
    try:
        with av.open(os.path.realpath(path)) as source, av.open(io.BytesIO(), "w", format=form) as trial:
            track = source.streams[track_index]
            packet = next(source.demux(track))
            packet.stream = trial.add_stream_from_template(track)
            if packet.dts is not None:  # a track may be empty
                trial.mux(packet)
    except (av.FFmpegError, ValueError):
        return False
    return True


def start_of(container: av.container.InputContainer) -> Fraction:
    """Where a file's own clock starts, in seconds: its earliest track's start; what lies before 0 is no picture."""
    starts = [stream.start_time * stream.time_base for stream in container.streams
              if stream.type in ("video", "audio") and stream.start_time is not None]
    return max(Fraction(0), min(starts, default=Fraction(0)))
