// Requests to the server, with the key that it may want.

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
let key = sessionStorage.getItem("hwgen-key") ?? "";
let asking = null;

/** A refusal of the server, with what it said. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Resolves when a key was given. Several requests that need one ask once. */
function askKey(wrong) {
  asking ??= new Promise((resolve) => {
    document.getElementById("key-wrong").hidden = !wrong;
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        key = field.value.trim();
        sessionStorage.setItem("hwgen-key", key);
        field.value = "";
        asking = null;
        resolve();
      },
      { once: true },
    );
  });
  return asking;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers ${response.status} ${response.statusText}`;
  }
}

/** The response to a request; asks for the key until the server takes it. */
export async function request(path, { body, signal } = {}) {
  for (;;) {
    const used = key;
    const headers = {};
    if (used) headers.Authorization = `Bearer ${used}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
    if (response.status === 401) {
      if (used === key) await askKey(used !== "");
      continue;
    }
    if (!response.ok) throw new Refused(response.status, await reason(response));
    return response;
  }
}

/** Values of a stream of server-sent events; ends with [DONE]. An event that is an error is thrown. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused(0, "the connection ended before the answer did");
    rest += value;
    const parts = rest.split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part
        .split(/\r?\n/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart())
        .join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // a ping
      const event = JSON.parse(data);
      if (event.error) throw new Refused(0, event.error.message);
      yield event;
    }
  }
}
