"""Video files like those of other programs, for tests."""

from fractions import Fraction

import av
import numpy as np


def remux(source, target, audio=0.0, start=0.0, tracks=1):
    """Copy the video stream of a file into another container.

    Args:
        source: the file to copy.
        target: the file to write.
        audio: seconds of a tone to add as audio.
        start: timestamp of the first frame in seconds.
        tracks: number of audio tracks, if any.
    """
    with av.open(str(target), "w") as out, av.open(str(source)) as video:
        original = video.streams.video[0]
        copy = out.add_stream_from_template(original)
        count = tracks if audio else 0
        tones = [out.add_stream("libopus", rate=48000, layout="mono") for _ in range(count)]
        for packet in video.demux(original):
            if packet.dts is not None:
                packet.stream = copy
                shift = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                out.mux(packet)
        for tone in tones:
            wave = (3000 * np.sin(np.arange(int(48000 * audio)) / 20)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = round(start * 48000)
            out.mux(tone.encode(frame))
            out.mux(tone.encode(None))


def encode(path, images, codec="libx264", keyframe_interval=250, corrupt=0):
    """Write a video with B-frames and 25 frames a second.

    Args:
        path: the file.
        images: its frames.
        codec: FFmpeg's name of the codec.
        keyframe_interval: number of frames between key frames.
        corrupt: the packet, counted from the end, that is replaced by zeros.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.max_b_frames = 0 if corrupt else 2
        stream.codec_context.gop_size = keyframe_interval
        packets = []
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if number == len(packets) - corrupt:
                zeros = av.Packet(bytes(packet.size))
                zeros.pts, zeros.dts = packet.pts, packet.dts
                zeros.time_base, zeros.stream = packet.time_base, stream
                packet = zeros  # noqa: PLW2901
            container.mux(packet)
