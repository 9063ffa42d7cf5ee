"""Videos as other programs write them, for tests."""

from fractions import Fraction

import av
import numpy as np


def remux(source, target, sound=0.0, begin=0.0, tracks=1):
    """The same pictures in another container, with seconds of a tone, on a clock that begins when told."""
    with av.open(str(target), "w") as out, av.open(str(source)) as video:
        own = video.streams.video[0]
        pictures = out.add_stream_from_template(own)
        count = tracks if sound else 0
        tones = [out.add_stream("libopus", rate=48000, layout="mono") for _ in range(count)]
        for packet in video.demux(own):
            if packet.dts is not None:
                packet.stream = pictures
                shift = round(begin / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                out.mux(packet)
        for tone in tones:
            wave = (3000 * np.sin(np.arange(int(48000 * sound)) / 20)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = round(begin * 48000)
            out.mux(tone.encode(frame))
            out.mux(tone.encode(None))


def encode(path, frames, codec="libx264", every=250, damaged=0):
    """A video with B-frames, as other programs write it, 25 frames a second.

    Args:
        path: the file.
        frames: its pictures.
        codec: FFmpeg's name of it.
        every: how many frames lie between key frames.
        damaged: the packet, counted from the end, that is all zeros.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.max_b_frames = 0 if damaged else 2
        stream.codec_context.gop_size = every
        packets = []
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if number == len(packets) - damaged:
                bad = av.Packet(bytes(packet.size))
                bad.pts, bad.dts, bad.time_base, bad.stream = packet.pts, packet.dts, packet.time_base, stream
                packet = bad  # noqa: PLW2901
            container.mux(packet)
