// The camera: frames one at a time, always the latest.
const REASONS: Readonly<Record<string, string>> = {
  NotAllowedError: "The camera is not allowed for this page: allow it in the browser, or choose a photo.",
  NotFoundError: "No camera was found: choose a photo instead.",
  NotReadableError: "The camera is in use by another program: close it and try again.",
};

export class Camera {
  private constructor(
    private readonly video: HTMLVideoElement,
    private readonly stream: MediaStream,
  ) {}

  /** Start the camera. Throws an error with a message for the user. */
  static async start(video: HTMLVideoElement): Promise<Camera> {
    if (!navigator.mediaDevices) throw new Error("The camera needs a page from https or from this machine.");
    const wanted = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } };
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
      video.srcObject = stream;
      await video.play();
      return new Camera(video, stream);
    } catch (error) {
      const name = error instanceof DOMException ? error.name : "";
      throw new Error(REASONS[name] ?? "The camera cannot be used: choose a photo instead.");
    }
  }

  get isActive(): boolean {
    return this.stream.getVideoTracks().some((track) => track.readyState === "live");
  }

  /** Whether the camera looks at the user, as those of computers do. */
  get isFront(): boolean {
    return this.stream.getVideoTracks()[0]?.getSettings().facingMode !== "environment";
  }

  /** Return the next frame. */
  async next(): Promise<ImageBitmap> {
    await new Promise<void>((resolve) => {
      if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(() => resolve());
      else requestAnimationFrame(() => resolve());
      setTimeout(resolve, 1000); // the camera was stopped, or the page is hidden
    });
    return createImageBitmap(this.video);
  }

  stop(): void {
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
  }
}

/** Frames a second over the last two seconds. */
export class FrameRate {
  private times: number[] = [];

  count(): number {
    const now = performance.now();
    this.times = [...this.times.filter((time) => time > now - 2000), now];
    const seconds = (now - this.times[0]) / 1000;
    return seconds > 0 ? (this.times.length - 1) / seconds : 0;
  }
}
