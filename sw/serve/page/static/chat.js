// The conversation: what was said, the answer as it comes, stop, again.

import { Refused, events, request } from "./api.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
const prompt = $("prompt");
const parameters = $("parameters");
const STARTERS = {
  chat: ["What is the capital of France?", "Write a short poem about rain.", "Why is the sky blue?"],
  text: ["Once upon a time", "One day, a little cat", "Tom and his dog went to the park"],
};

let machine = null;
/** Messages of the conversation: {role, content}, as they are sent. */
let messages = JSON.parse(sessionStorage.getItem("hwgen-messages") ?? "[]");
let running = null;

const keep = () => sessionStorage.setItem("hwgen-messages", JSON.stringify(messages));
const speak = (text) => ($("spoken").textContent = text);

/** Parameters that were set, as the protocol has them. */
function chosen() {
  const out = {};
  for (const input of parameters.querySelectorAll("input")) {
    if (input.value !== "") out[input.name] = Number(input.value);
  }
  return out;
}

function toSend(ending = messages.length) {
  const system = parameters.elements.system.value.trim();
  const spoken = messages.slice(0, ending).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...spoken] : spoken;
}

// ---- what is shown ---------------------------------------------------------------------------------------------------
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function show(message) {
  const text = element("div", { className: "text", textContent: message.content });
  const foot = element("div", { className: "foot" });
  const who = message.role === "user" ? "You" : (machine?.model ?? "Answer");
  const article = element("article", { className: message.role }, element("p", { className: "who", textContent: who }), text, foot);
  if (message.role === "assistant") fillFoot(foot, message.note ?? "");
  log.append(article);
  $("welcome").hidden = true;
  log.scrollTop = log.scrollHeight;
  return { article, text, foot };
}

function fillFoot(foot, note, failed = false) {
  const again = element("button", { type: "button", className: "plain again", textContent: failed ? "Try again" : "Regenerate" });
  again.addEventListener("click", regenerate);
  const copy = element("button", { type: "button", className: "plain", textContent: "Copy" });
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(messages.at(-1).content);
    speak("Copied");
  });
  for (const old of log.querySelectorAll(".again")) old.parentElement.querySelectorAll("button").forEach((b) => b.remove());
  foot.replaceChildren(element("span", { textContent: note, className: failed ? "wrong" : "" }), again);
  if (!failed && window.isSecureContext) foot.append(copy);
}

function redraw() {
  for (const article of log.querySelectorAll("article")) article.remove();
  $("welcome").hidden = messages.length > 0;
  messages.forEach(show);
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
}

// ---- answers ---------------------------------------------------------------------------------------------------------
async function answer() {
  const controller = new AbortController();
  setRunning(controller);
  const message = { role: "assistant", content: "", note: "" };
  const sent = toSend();
  messages.push(message);
  const shown = show(message);
  shown.foot.replaceChildren();
  shown.article.setAttribute("aria-busy", "true");
  speak("The answer begins");
  const begin = performance.now();
  let first = null;
  let usage = null;
  let finish = "";
  let failure = null;
  try {
    const body = { model: machine.model, messages: sent, stream: true, stream_options: { include_usage: true }, ...chosen() };
    const response = await request("/v1/chat/completions", { body, signal: controller.signal });
    for await (const event of events(response)) {
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      finish = choice?.finish_reason ?? finish;
      if (!choice?.delta?.content) continue;
      first ??= performance.now();
      message.content += choice.delta.content;
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      shown.text.textContent = message.content;
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    failure = error;
  }
  shown.article.removeAttribute("aria-busy");
  setRunning(null);
  if (failure !== null && failure.name !== "AbortError") {
    const reached = failure instanceof Refused ? failure.message : "the server cannot be reached";
    if (!message.content) messages.pop();
    fillFoot(shown.foot, reached, true);
    speak(`No answer: ${reached}`);
  } else {
    message.note = failure ? "stopped" : noteOf(usage, finish, begin, first);
    fillFoot(shown.foot, message.note);
    speak(failure ? "Stopped" : `The answer is complete: ${message.content}`);
  }
  keep();
}

/** What an answer took, as seen from here. */
function noteOf(usage, finish, begin, first) {
  if (!usage) return "";
  const tokens = usage.completion_tokens;
  const seconds = (until) => `${((until - begin) / 1000).toFixed(1)} s`;
  const parts = [`${tokens} token${tokens === 1 ? "" : "s"} in ${seconds(performance.now())}`];
  if (first !== null) parts.push(`first text after ${seconds(first)}`);
  if (usage.prompt_tokens_details?.cached_tokens) parts.push(`${usage.prompt_tokens_details.cached_tokens} of the prompt reused`);
  if (finish === "length") parts.push("ended by its length");
  return parts.join(" · ");
}

function submit(text) {
  if (running || !text.trim() || !machine || !parameters.reportValidity()) return;
  const message = { role: "user", content: text };
  messages.push(message);
  show(message);
  keep();
  prompt.value = "";
  grow();
  answer();
}

function regenerate() {
  if (running) return;
  if (messages.at(-1)?.role === "assistant") messages.pop();
  if (!messages.length) return;
  redraw();
  answer();
  prompt.focus();
}

// ---- what the model reads --------------------------------------------------------------------------------------------
async function showTokens() {
  if (!$("template").open || !machine) return;
  const spoken = toSend();
  if (prompt.value.trim()) spoken.push({ role: "user", content: prompt.value });
  if (!spoken.length) {
    $("tokens").replaceChildren();
    return;
  }
  try {
    const response = await request("/machine/prompt", { body: { model: machine.model, messages: spoken } });
    const { tokens } = await response.json();
    $("tokens").replaceChildren(
      ...tokens.map(([number, text, control]) =>
        element("span", {
          className: control ? "control" : "",
          title: `token ${number}`,
          textContent: text.replaceAll("\n", "⏎") || "·",
        }),
      ),
    );
    $("tokens").setAttribute("aria-label", `${tokens.length} tokens: ${tokens.map((t) => t[1]).join("")}`);
    $("template-note").textContent =
      `${tokens.length} tokens with the message being written; the context holds ${machine.context}.`;
  } catch (error) {
    $("template-note").textContent = error.message;
  }
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

/** What the server said of itself, when it is known. */
export function describe(state) {
  const known = machine !== null;
  machine = state.machine;
  if (known) return;
  const template = machine.chat_template;
  $("welcome-text").textContent = template
    ? `${machine.model} answers, computed by ${deviceName(machine)}.`
    : `${machine.model} has no chat template: it continues what you begin. Computed by ${deviceName(machine)}.`;
  $("source").hidden = !template;
  $("template-source").textContent = template ?? "";
  $("template-note").textContent = template
    ? "The chat template puts control tokens around the messages."
    : "This model has no chat template: it reads the texts one behind the other.";
  parameters.elements.temperature.placeholder = `${state.temperature}${state.temperature ? "" : ", greedy"}`;
  parameters.elements.max_tokens.placeholder = state.limits.new_tokens ?? "what the context holds";
  $("starters").replaceChildren(
    ...STARTERS[template ? "chat" : "text"].map((text) => {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => submit(text));
      return button;
    }),
  );
  redraw();
}

/** The machine in words. */
export function deviceName({ device, simulated }) {
  if (device === "golden") return "the golden model, which has no time";
  return simulated ? "generated Verilog in simulation" : "the accelerator on the board";
}

export function startChat() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(prompt.value);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit(prompt.value);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
  });
  $("stop").addEventListener("click", () => {
    running?.abort();
    prompt.focus();
  });
  $("fresh").addEventListener("click", () => {
    running?.abort();
    messages = [];
    keep();
    redraw();
    prompt.focus();
  });
  let later;
  const soon = () => {
    clearTimeout(later);
    later = setTimeout(showTokens, 250);
  };
  prompt.addEventListener("input", () => {
    grow();
    soon();
  });
  $("template").addEventListener("toggle", soon);
  parameters.addEventListener("input", soon);
  parameters.addEventListener("submit", (event) => event.preventDefault());
  prompt.focus();
}
