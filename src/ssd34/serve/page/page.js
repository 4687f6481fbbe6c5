"use strict";
// All of the page but `findObjects(picture)`, which another script has: it gives {answer: {width, height,
// detections: [{name, label, score, box}]}, bitmap or null, timing}, or throws an Error with a sentence to show.
const at = id => document.getElementById(id);
const state = { picture: null, bitmap: null, answer: null, hidden: new Set(), turn: 0 };
const LEAST = at("score").min / 100;

/** The colours that ssd34's own drawings have: neighbouring labels get distant hues. */
function colourOf(label) {
  const h = (label * 0.618033988749895 % 1) * 6, v = 0.95, s = 0.85;
  const part = n => { const k = (n + h) % 6; return Math.round(255 * (v - v * s * Math.max(0, Math.min(k, 4 - k, 1)))); };
  return [part(5), part(3), part(1)];
}
const css = c => `rgb(${c.join(" ")})`;
const ink = c => 299 * c[0] + 587 * c[1] + 114 * c[2] > 128000 ? "black" : "white";

function fail(text) {
  at("message").textContent = text;
  at("error").hidden = false;
  at("shown").hidden = at("result").hidden = true;
  document.body.className = "";
  say("");
}

/** Tell it to screen readers, and show it while something is going on. */
function say(text, { busy = false } = {}) {
  at("status").textContent = text;
  at("status").className = busy ? "soft" : "hidden";
}

/** Show what is in a picture; what comes after a later picture was chosen is dropped. */
async function look(picture) {
  const turn = ++state.turn;
  state.picture = picture;
  at("error").hidden = true;
  say("Looking at the picture ...", { busy: true });
  let found;
  try {
    found = await findObjects(picture);
  } catch (error) {
    if (turn === state.turn) fail(error.message);
    return;
  }
  if (turn !== state.turn) return;
  Object.assign(state, found);
  state.hidden.clear();
  at("timing").textContent = found.timing;
  document.body.className = "found";
  at("shown").hidden = at("result").hidden = false;
  chips();
  show();
  at("shown").scrollIntoView({ block: "nearest" });
}

const kept = () => state.answer.detections.filter(d => d.score * 100 >= at("score").value && !state.hidden.has(d.name));

function chips() {
  const labels = new Map(state.answer.detections.map(d => [d.name, d.label]));
  at("chips").replaceChildren(...[...labels].map(([name, label]) => {
    const chip = document.createElement("button"), dot = document.createElement("span");
    chip.type = "button";
    chip.dataset.name = name;
    chip.ariaPressed = "true";
    dot.className = "dot";
    dot.style.background = css(colourOf(label));
    chip.append(dot, name);
    chip.onclick = () => {
      const off = chip.ariaPressed === "true";
      chip.ariaPressed = String(!off);
      state.hidden[off ? "add" : "delete"](name);
      show();
    };
    return chip;
  }));
}

function show() {
  at("least").textContent = at("score").ariaValueText = `${at("score").value} %`;
  const found = kept(), names = new Map(), above = new Set();
  for (const d of state.answer.detections) if (d.score * 100 >= at("score").value) above.add(d.name);
  for (const chip of at("chips").children) chip.hidden = !above.has(chip.dataset.name);
  for (const d of found) names.set(d.name, (names.get(d.name) || 0) + 1);
  const listed = [...names].map(([name, n]) => n > 1 ? `${name} (${n})` : name).join(", ");
  at("summary").textContent = found.length ? `${found.length} object${found.length > 1 ? "s" : ""}: ${listed}.`
    : "Nothing with this score. Lower it to see what the model is less sure of.";
  say(at("summary").textContent);
  at("canvas").ariaLabel = `The picture with boxes around ${listed || "nothing"}`;
  at("rows").replaceChildren(...found.map(d => {
    const row = document.createElement("tr");
    for (const text of [d.name, `${(d.score * 100).toFixed(0)} %`, ...d.box.map(v => v.toFixed(0))]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
  draw(found);
}

function draw(found) {
  const { width, height } = state.answer, canvas = at("canvas"), pen = canvas.getContext("2d");
  const scale = Math.min(1, 2000 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  if (state.bitmap) pen.drawImage(state.bitmap, 0, 0, canvas.width, canvas.height);
  const side = Math.min(canvas.width, canvas.height), size = Math.max(12, Math.round(side / 24));
  pen.lineWidth = Math.max(2, Math.round(side / 180));
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (const d of [...found].reverse()) {
    const [left, top, right, bottom] = d.box.map(v => v * scale), colour = colourOf(d.label);
    pen.strokeStyle = pen.fillStyle = css(colour);
    pen.strokeRect(left, top, right - left, bottom - top);
    const text = `${d.name} ${(d.score * 100).toFixed(0)} %`, w = pen.measureText(text).width + size * .6, h = size * 1.4;
    const x = Math.max(0, Math.min(left, canvas.width - w)), y = top >= h ? top - h : top;
    pen.fillRect(x, y, w, h);
    pen.fillStyle = ink(colour);
    pen.fillText(text, x + size * .3, y + h / 2);
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

at("least").textContent = `${at("score").value} %`;
at("score").oninput = show;
at("json").onclick = () => save(new Blob([JSON.stringify({ ...state.answer, detections: kept() }, null, 1)],
  { type: "application/json" }), "detections.json");
at("picture").onclick = () => at("canvas").toBlob(blob => save(blob, "detections.png"));
for (const id of ["file", "camera"]) {
  at(id).onchange = event => { if (event.target.files[0]) look(event.target.files[0]); event.target.value = ""; };
}
for (const button of document.querySelectorAll("[data-example]")) {
  button.onclick = () => fetch(`examples/${button.dataset.example}.jpg`).then(answer => answer.blob())
    .then(look, () => fail("The example does not come. Check the connection, and try again."));
}
document.ondragover = event => { event.preventDefault(); at("drop").classList.add("over"); };
document.ondragleave = () => at("drop").classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) look(file); else fail("That was no file. Drop a picture file.");
};
document.onpaste = event => {
  const file = [...event.clipboardData.files][0];
  if (file) look(file);
};
