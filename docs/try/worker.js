// Runs the network beside the page, so that the page goes on answering.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { resize } from "./resize.js";

let session = null, about = null, table = null;

/** Start the network; the message has what the page says `about` the model, and the bytes `model` and `wasm`. */
async function start(message) {
  about = message.about;
  const step = [...Array(256).keys()];
  table = about.mean.map((mean, i) => Float32Array.from(step, byte => (byte / 255 - mean) / about.std[i]));
  ort.env.wasm.wasmBinary = message.wasm;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  session = await ort.InferenceSession.create(message.model, { executionProviders: ["wasm"] });
  return { threads: ort.env.wasm.numThreads };
}

/** A canvas to read pixels from, on white. */
function paper(width, height) {
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  return pen;
}

/** Whether this browser gives pages the pixels that are there, not others against fingerprinting. */
function isHonest() {
  const pen = paper(16, 16);
  pen.fillStyle = "rgb(10 120 230)";
  pen.fillRect(0, 0, 16, 16);
  return pen.getImageData(0, 0, 16, 16).data.every((value, i) => value === [10, 120, 230, 255][i % 4]);
}

/** RGB bytes (side, side, 3) of a picture. */
export function shrink(bitmap, side) {
  let pen = null;
  const read = (left, top, columns, rows) => {
    if (pen?.canvas.width !== columns || pen.canvas.height !== rows) pen = paper(columns, rows);
    pen.fillRect(0, 0, columns, rows);
    pen.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
    return pen.getImageData(0, 0, columns, rows).data;
  };
  return resize(read, bitmap.width, bitmap.height, side);
}

/** The network's input (1, 3, side, side), normalised. */
function normalise(rgb, side) {
  const input = new Float32Array(rgb.length), plane = side * side;
  for (let i = 0; i < rgb.length; i++) input[i % 3 * plane + (i / 3 | 0)] = table[i % 3][rgb[i]];
  return new ort.Tensor("float32", input, [1, 3, side, side]);
}

/** What the network finds in a decoded picture with a score of `least` or more. */
async function detect(bitmap, least) {
  const started = performance.now();
  const input = normalise(shrink(bitmap, about.side), about.side);
  const prepared = performance.now();
  const { bboxes, labels, scores } = await session.run({ [session.inputNames[0]]: input });
  const sides = [bitmap.width, bitmap.height], detections = [];
  scores.data.forEach((score, i) => {
    if (score < least) return;
    const label = Number(labels.data[i]);
    const box = [...bboxes.data.subarray(4 * i, 4 * i + 4)].map((share, j) => Math.min(Math.max(share * sides[j % 2], 0), sides[j % 2]));
    detections.push({ name: about.labels[label - 1], label, score: round(score, 5), box: box.map(value => round(value, 2)) });
  });
  return { bitmap, detections, model: about.name, prepare: prepared - started, infer: performance.now() - prepared };
}

const round = (value, digits) => Number(value.toFixed(digits));

async function answer({ data, ports: [port] }) {
  let doing = "starting";
  try {
    if (data.model) return port.postMessage(await start(data));
    doing = "pixels";
    if (!isHonest()) throw new Error("other pixels");
    doing = "reading";
    // As Python reads it: colour profiles are not applied.
    const bitmap = await createImageBitmap(data.picture, { colorSpaceConversion: "none" });
    doing = "running";
    port.postMessage(await detect(bitmap, data.least), [bitmap]);
  } catch (error) {
    port.postMessage({ doing, error: String(error?.message ?? error) });
  }
}

let last = Promise.resolve();
self.onmessage = message => { last = last.then(() => answer(message)); };  // one after the other
