"""Count the blinks of each face in a video file or of a camera.

    python examples/blink_counter.py VIDEO
    python examples/blink_counter.py 0          # a camera

An eye's openness (height over width) differs by person, camera and head pose, so each face is compared with
its own median of the last seconds. A face that looks down counts as a blink too.
"""

import sys
from collections import defaultdict, deque

import numpy as np

from pipnet import VideoLandmarker

CLOSED, OPEN = 0.86, 0.92
"""Openness over its median: below the first the eyes count as closed, above the second as open again."""
MEMORY, MIN_MEMORY = 4.0, 0.5
"""Seconds that the median is taken over, and that it needs at first."""
MIN_CONFIDENCE = 0.5
"""Eyes with a lower calibrated confidence are ignored, such as those behind a hand."""


class BlinkCounter:
    """Counts the blinks of one face."""

    def __init__(self) -> None:
        """Start without a frame."""
        self.blinks = 0
        self.is_closed = False
        self._history: deque[tuple[float, float]] = deque()

    def update(self, time: float, openness: float) -> bool:
        """Add a frame, and return whether a blink starts in it."""
        self._history.append((time, openness))
        while self._history[0][0] < time - MEMORY:
            self._history.popleft()
        if time - self._history[0][0] < MIN_MEMORY:
            return False
        relative = openness / float(np.median([value for _, value in self._history]))
        starts = not self.is_closed and relative < CLOSED
        self.is_closed = relative < (OPEN if self.is_closed else CLOSED)
        self.blinks += starts
        return starts


def main(source: str) -> None:
    """Print each blink as it starts, and the number of each face at the end."""
    counters: defaultdict[int, BlinkCounter] = defaultdict(BlinkCounter)
    landmarker = VideoLandmarker(
        smooth=False
    )  # smoothing would flatten blinks, which take a tenth of a second
    for frame, faces, track_ids, _ in landmarker.stream(int(source) if source.isdigit() else source):
        eyes = faces.openness()
        openness = (eyes.left_eye + eyes.right_eye) / 2
        confidence = np.minimum(eyes.left_eye_confidence, eyes.right_eye_confidence)
        for track_id, value, is_seen in zip(track_ids, openness, confidence >= MIN_CONFIDENCE, strict=True):
            if is_seen and counters[track_id].update(frame.time, float(value)):
                print(f"{frame.time:.2f} s: face {track_id} blinks", flush=True)
    for track_id, counter in counters.items():
        print(f"face {track_id}: {counter.blinks} blinks")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} VIDEO or camera number")
    main(sys.argv[1])
