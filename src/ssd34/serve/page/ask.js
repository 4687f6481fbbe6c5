"use strict";

/** What the server finds in a picture. */
async function findObjects(picture) {
  const headers = { "Content-Type": picture.type.startsWith("image/") ? picture.type : "application/octet-stream" };
  if (at("key").value) headers["X-API-Key"] = at("key").value;
  const started = performance.now();
  const response = await fetch(`detect?score=${LEAST}`, { method: "POST", body: picture, headers }).catch(() => {
    throw new Error("The server cannot be reached. Check that it runs, and try again.");
  });
  const told = await response.json().catch(() => ({
    error: `the answer, with status ${response.status}, is not the server's; is there a proxy with limits of its own`,
  }));
  const seconds = performance.now() - started;
  at("keyform").hidden = response.status !== 401;
  if (response.status === 401) {
    at("key").focus();
    throw new Error(at("key").value ? "This server does not know that key." : "This server asks for a key.");
  }
  if (told.error) throw new Error(`Not done: ${told.error}.`);
  const { infer, prepare, wait } = told.timing;
  return {
    answer: { ...told.pictures[0], model: told.model },
    bitmap: await createImageBitmap(picture).catch(() => null),  // the server reads formats that a browser does not
    timing: `Model ${told.model}: network ${infer.toFixed(0)} ms, picture ${prepare.toFixed(0)} ms, `
      + `waiting ${wait.toFixed(0)} ms; all with the way there and back ${seconds.toFixed(0)} ms.`,
  };
}

at("keyform").onsubmit = event => { event.preventDefault(); look(state.picture); };
