// Reading of image files, with limits that are checked before the pixels are decoded.
const MAX_BYTES = 100e6;
const MAX_PIXELS = 50e6;

/** Return the image of a file, rotated as its EXIF says. Throws an error with a message for the user. */
export async function decodePhoto(file: Blob, name: string): Promise<ImageBitmap> {
  const short = name.length > 40 ? `${name.slice(0, 37)}…` : name;
  if (file.size > MAX_BYTES) {
    throw new Error(`${short} has ${Math.round(file.size / 1e6)} MB; at most ${MAX_BYTES / 1e6} MB can be read here.`);
  }
  const unreadable = new Error(`${short} is not an image that this browser can read: use JPEG, PNG or WebP.`);
  const pixels = await pixelCount(file).catch(() => Promise.reject(unreadable));
  if (pixels > MAX_PIXELS) {
    const count = Math.round(pixels / 1e6);
    throw new Error(`${short} has ${count} megapixels; at most ${MAX_PIXELS / 1e6} can be processed here: reduce it.`);
  }
  // Color profiles are ignored, as the networks' training did.
  const options: ImageBitmapOptions = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  return createImageBitmap(file, options).catch(() => Promise.reject(unreadable));
}

/** Return the number of pixels of an image; an image element reads only the header for this. */
function pixelCount(file: Blob): Promise<number> {
  const address = URL.createObjectURL(file);
  return new Promise<number>((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth * image.naturalHeight);
    image.onerror = reject;
    image.src = address;
  }).finally(() => URL.revokeObjectURL(address));
}
