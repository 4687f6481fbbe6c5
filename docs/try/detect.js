"use strict";
// Loads model and program after a click, and has a worker run them. Requests go to this site only.

const ONE_THREAD = "One thread: this site does not send the headers (COOP, COEP) that browsers want before they give a page more.";
let worker = null, broken = null;

/** The worker's answer, or an error for people. */
function ask(message, transfer = []) {
  const { port1, port2 } = new MessageChannel();
  const answer = new Promise((resolve, reject) => {
    port1.onmessage = ({ data }) => data.error ? reject(new Error(explain(data))) : resolve(data);
  });
  worker.postMessage(message, [port2, ...transfer]);
  return Promise.race([answer, broken]);
}

function explain({ doing, error }) {
  if (/memory|alloc/i.test(error)) return "Not enough memory: the model needs some 200 MB. Close other pages, and load this one again.";
  return {
    starting: `The model could not be started (${error}). Try a browser of this year.`,
    reading: "This browser cannot read that file as a picture. Choose a JPEG, PNG or WebP.",
    pixels: "This browser does not let pages read the pixels of a picture, a protection against fingerprinting. Allow it for this page.",
    running: `The network failed (${error}). Load this page again.`,
  }[doing];
}

/** The bytes of a file; `count` is told of each piece that comes. */
async function fetchWhole({ file, bytes }, signal, count) {
  const whole = new Uint8Array(bytes), broke = () => { throw new Error(`${file}: no connection.`); };
  const response = await fetch(file, { signal }).catch(broke);
  if (!response.ok) throw new Error(`${file}: the server answered ${response.status}.`);
  const reader = response.body.getReader();
  for (let have = 0; ;) {
    const { done, value } = await reader.read().catch(broke);
    const next = have + (done ? 0 : value.length);
    if (done ? next !== bytes : next > bytes) throw new Error(`${file}: expected ${bytes} bytes, got ${next}.`);
    if (done) return whole.buffer;
    whole.set(value, have);
    have = next;
    count(value.length);
  }
}

async function loadModel() {
  const started = performance.now(), about = JSON.parse(at("about").textContent), parts = [about.model, about.wasm];
  const total = parts[0].bytes + parts[1].bytes, mega = bytes => (bytes / 1e6).toFixed(0);
  let have = 0, told = 0;
  const count = bytes => {
    at("progress").value = have += bytes;
    if (have < told + total / 10 && have < total) return;  // a screen reader says each of these
    told = have;
    at("loaded").textContent = have < total ? `${mega(have)} of ${mega(total)} MB` : "Starting ...";
  };
  at("progress").max = total;
  at("progress").value = 0;
  at("progress").hidden = false;
  const stop = new AbortController();
  const buffers = await Promise.all(parts.map(part => fetchWhole(part, stop.signal, count)))
    .catch(error => { stop.abort(); throw error; });
  worker = new Worker("worker.js", { type: "module" });
  broken = new Promise((_, reject) => { worker.onerror = () => reject(new Error("The program that runs the model does not load.")); });
  broken.catch(() => {});  // also where nobody waits
  const { threads } = await ask({ about, model: buffers[0], wasm: buffers[1] }, buffers);
  at("loaded").textContent = `${about.name}: ${mega(total)} MB, ready in ${((performance.now() - started) / 1000).toFixed(1)} s. `
    + (self.crossOriginIsolated ? `Threads: ${threads}.` : ONE_THREAD);
}

at("start").onclick = async () => {
  if (at("start").ariaDisabled) return;
  at("start").ariaDisabled = "true";  // keeps the focus, other than `disabled`
  at("error").hidden = true;
  try {
    await loadModel();
    at("start").parentNode.hidden = at("parts").hidden = true;
    at("drop").hidden = false;
    at("choose").focus();
  } catch (error) {
    worker?.terminate();
    worker = null;
    at("loaded").textContent = "";
    at("progress").hidden = true;
    fail(`${error.message} Press the button to try again.`);
  }
  at("start").ariaDisabled = null;
};

/** What the network finds in a picture. */
async function findObjects(picture) {
  if (!worker || at("drop").hidden) throw new Error("Load the model first, with the button above.");
  const { bitmap, detections, model, prepare, infer } = await ask({ picture, least: LEAST });
  return {
    answer: { width: bitmap.width, height: bitmap.height, detections, model },
    bitmap,
    timing: `Model ${model}: network ${infer.toFixed(0)} ms, picture ${prepare.toFixed(0)} ms, in this page.`,
  };
}

at("drop").hidden = true;
at("choose").tabIndex = -1;
const lacks = location.protocol === "file:" ? "A page opened from a folder may load nothing. Serve the folder: make try."
  : typeof WebAssembly === "object" && typeof OffscreenCanvas === "function" ? ""
    : "This browser has no WebAssembly, or no OffscreenCanvas. Chrome, Edge, Firefox and Safari have had both since 2023; "
      + "some have a mode that switches them off.";
if (lacks) {
  at("start").parentNode.hidden = true;
  fail(lacks);
}
