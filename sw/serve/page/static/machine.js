// The machine, live: asks the server for its counters while somebody looks.

import { request } from "./api.js";
import { deviceName } from "./chat.js";
import { Timeline, duration } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const BUSY_INTERVAL = 500;
const IDLE_INTERVAL = 1500;
const KEPT = 240;
/** What the linear engine did, in words; the counters are in the order of the machine. */
const WORDS = {
  engine_busy: ["busy", "linear engine works"],
  engine_tables: ["tables", "waits for tables"],
  engine_rows: ["rows", "waits for weights from memory"],
  engine_pipeline: ["pipeline", "fills or empties its pipeline"],
  engine_idle_vector: ["vector", "vector unit alone: norms, drains, rotations"],
  engine_idle_attention: ["attention", "attention or LM head"],
  engine_idle_loader: ["loader", "embeddings and gains are loaded"],
  engine_idle_other: ["idle", "operators start, the pass ends"],
};
const DOES = { prompt: "reads its prompt", answer: "answers", parked: "waits for pages" };

let passes = [];
let timeline = null;
let traced = 0;
let hold = false;
const curves = {};

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
const whole = (number) => number.toLocaleString("en");

function cell(text, options = {}) {
  return Object.assign(document.createElement("td"), { textContent: text, ...options });
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

function dotted(name, text) {
  const made = document.createElement("td");
  const dot = Object.assign(document.createElement("span"), { className: "dot" });
  dot.style.background = `var(--${name})`;
  made.append(dot, text);
  return made;
}

function bar(root, parts) {
  while (root.children.length < parts.length) root.append(document.createElement("i"));
  while (root.children.length > parts.length) root.lastChild.remove();
  parts.forEach(([name, share, title], i) => {
    Object.assign(root.children[i].style, {
      width: `${100 * share}%`,
      background: name.startsWith("hsl") ? name : `var(--${name})`,
    });
    root.children[i].title = title;
  });
}

// ---- figures ---------------------------------------------------------------------------------------------------------
function curve(id, values, top) {
  const css = getComputedStyle(document.documentElement);
  const root = $(id);
  const data = [values.map((_, i) => i), values];
  if (!curves[id] || curves[id].root.clientWidth === 0) {
    root.replaceChildren();
    curves[id] = new uPlot(
      {
        width: root.clientWidth || 100,
        height: 34,
        legend: { show: false },
        cursor: { show: false },
        padding: [2, 0, 2, 0],
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, top ?? (high || 1) * 1.1] } },
        axes: [{ show: false }, { show: false }],
        series: [
          {},
          {
            stroke: css.getPropertyValue("--accent"),
            fill: css.getPropertyValue("--accent-wash"),
            width: 1.4,
            points: { show: false },
          },
        ],
      },
      data,
      root,
    );
  }
  curves[id].setSize({ width: root.clientWidth || 100, height: 34 });
  curves[id].setData(data);
}

/** Tokens a second of a pass: at the machine's clock, or of the golden model as the host sees it. */
const rateOf = (pass, clock) => (pass.cycles ? (pass.tokens * clock * 1e6) / pass.cycles : pass.tokens / pass.seconds);

function figures(machine, last) {
  const same = passes.filter((p) => p.phase === "decode");
  const shown = same.length ? same : passes;
  const rates = shown.slice(-120).map((p) => rateOf(p, machine.clock_mhz));
  const recent = shown.slice(-8);
  const sum = (what) => recent.reduce((total, p) => total + p[what], 0);
  const rate = last.cycles ? (sum("tokens") * machine.clock_mhz * 1e6) / sum("cycles") : sum("tokens") / sum("seconds");
  $("rate").textContent = rate >= 100 ? whole(Math.round(rate)) : rate.toFixed(1);
  $("rate").title = "mean of the last 8 passes that decode";
  curve("rate-curve", rates);
  $("last").textContent = last.cycles ? duration(last.cycles / machine.clock_mhz / 1e6) : duration(last.seconds);
  $("last-note").textContent =
    `${last.tokens} ${last.phase === "prefill" ? "prompt " : ""}token${last.tokens === 1 ? "" : "s"}${last.cycles ? `, ${whole(last.cycles)} cycles` : ""}`;
  if (!last.cycles) {
    $("ports").textContent = "–";
    $("ring-note").textContent = `${whole(last.stream_beats)} beats read`;
    return;
  }
  $("ports").textContent = percent(last.stream_beats / last.cycles);
  $("ports").title = "share of the cycles of the last pass in which a beat entered the ring";
  curve(
    "ports-curve",
    passes.slice(-120).map((p) => p.stream_beats / p.cycles),
    1,
  );
}

function ringLevel(machine, trace) {
  const points = trace.operators
    .flatMap((o) => [
      [o[1], o[5]],
      [o[2], o[6]],
    ])
    .sort((a, b) => a[0] - b[0]);
  let area = 0;
  for (let i = 1; i < points.length; i++) area += ((points[i][1] + points[i - 1][1]) / 2) * (points[i][0] - points[i - 1][0]);
  const span = points.length ? points.at(-1)[0] - points[0][0] : 0;
  $("ring").textContent = span ? percent(area / span / machine.ring_beats) : "–";
  $("ring-note").textContent = `of ${whole(machine.ring_beats)} beats`;
}

function cyclesOf(machine, last) {
  const none = !last.cycles;
  $("cycles-bar").hidden = $("cycles").hidden = none;
  $("cycles-none").hidden = !none;
  if (none) {
    $("cycles-none").textContent =
      `The golden model computes the same bits without time: ${whole(last.counters.operators)} operators, no cycles. Serve with --device verilator to see them.`;
    return;
  }
  const parts = Object.keys(machine.engine_counters).map((name) => [
    WORDS[name]?.[0] ?? "other",
    last.counters[name],
    WORDS[name]?.[1] ?? name,
  ]);
  bar(
    $("cycles-bar"),
    parts.map(([name, cycles, text]) => [name, cycles / last.cycles, `${text}: ${whole(cycles)} cycles`]),
  );
  $("cycles").tBodies[0].replaceChildren(
    ...parts
      .filter((p) => p[1])
      .sort((a, b) => b[1] - a[1])
      .map(([name, cycles, text]) =>
        row(
          dotted(name, text),
          cell(whole(cycles), { className: "number" }),
          cell(percent(cycles / last.cycles), { className: "number" }),
        ),
      ),
  );
}

// ---- who has what ----------------------------------------------------------------------------------------------------
/** A colour of one answer, the same as long as it lives. */
const hue = (answer) => `hsl(${(answer * 137) % 360} 42% 55%)`;

function sessions(state) {
  const { running, waiting, pages, limits } = state;
  const held = running.filter((s) => s.pages);
  bar($("pages-bar"), [
    ...held.map((s) => [hue(s.answer), s.pages / pages.all, `answer ${s.answer}: ${s.pages} pages`]),
    ["kept", pages.kept / pages.all, `kept for prompts that begin alike: ${pages.kept} pages`],
  ]);
  $("pages-note").textContent =
    `${whole(pages.all)} pages of ${pages.tokens} tokens: ${whole(pages.all - pages.free - pages.kept)} held, ${whole(pages.kept)} kept for prompts that begin alike (${state.prefixes}), ${whole(pages.free)} free.`;
  $("sessions").hidden = !running.length;
  $("sessions").tBodies[0].replaceChildren(
    ...running.map((s) => {
      const name = document.createElement("td");
      const dot = Object.assign(document.createElement("span"), { className: "dot" });
      dot.style.background = hue(s.answer);
      name.append(dot, `${s.answer}`);
      return row(
        name,
        cell(DOES[s.state]),
        cell(`${whole(s.position)} (${whole(s.new)} new)`),
        cell(whole(s.reused)),
        cell(whole(s.pages)),
      );
    }),
  );
  $("queue").textContent = `${running.length} of ${limits.running} run, ${waiting.length} of ${limits.waiting} wait.`;
  const slots = $("slots");
  slots.replaceChildren(
    ...Array.from({ length: Math.min(limits.running, 64) }, (_, i) =>
      Object.assign(document.createElement("i"), { className: i < running.length ? "on" : "" }),
    ),
    ...waiting.slice(0, 64).map(() => Object.assign(document.createElement("i"), { className: "late" })),
  );
}

function runs(last) {
  $("runs").hidden = false;
  $("runs-none").hidden = true;
  $("runs").tBodies[0].replaceChildren(
    ...last.runs.map((r) => {
      const name = document.createElement("td");
      const dot = Object.assign(document.createElement("span"), { className: "dot" });
      dot.style.background = hue(r.answer);
      name.append(dot, `${r.answer}`);
      return row(name, cell(`${whole(r.position)} tokens`), cell(whole(r.tokens)));
    }),
  );
}

// ---- the trace -------------------------------------------------------------------------------------------------------
function operatorTable(machine, trace) {
  const of = new Map();
  for (const [name, start, end] of trace.operators) {
    const sum = of.get(name) ?? { times: 0, cycles: 0 };
    of.set(name, { times: sum.times + 1, cycles: sum.cycles + end - start });
  }
  const unit = (name) => Object.keys(machine.units).find((u) => machine.units[u].includes(name));
  $("operators")
    .querySelector("tbody")
    .replaceChildren(
      ...[...of]
        .sort((a, b) => b[1].cycles - a[1].cycles)
        .map(([name, { times, cycles }]) =>
          row(dotted(name, name), cell(unit(name)), cell(whole(times)), cell(whole(cycles)), cell(percent(cycles / trace.cycles))),
        ),
    );
}

async function updateTrace(machine) {
  if (hold) return;
  const trace = await (await request("/machine/trace")).json();
  const none = !trace?.operators.length;
  $("timeline").hidden = $("zoom").hidden = $("operators").hidden = none;
  if (none) {
    $("timeline-none").textContent =
      machine.device === "golden" ? "No time, no timeline: this is the golden model." : "The next pass will be traced.";
    return;
  }
  if (trace.number === traced) return;
  traced = trace.number;
  timeline ??= new Timeline($("timeline"), $("hint"), machine);
  timeline.show(trace);
  operatorTable(machine, trace);
  ringLevel(machine, trace);
  const part =
    trace.operators.length < trace.executed
      ? `; ${whole(trace.operators.length)} of ${whole(trace.executed)} operators: what the trace memory kept, or the last slice`
      : "";
  $("timeline-name").textContent = trace.name;
  $("timeline-none").textContent = `Drag to zoom, double click for the whole pass${part}.`;
}

// ---- state -----------------------------------------------------------------------------------------------------------
function heading(state) {
  const { machine, failure, running } = state;
  const golden = machine.device === "golden";
  document.title = `${machine.model} · hwgen`;
  $("model").textContent = machine.model;
  $("where").textContent = golden
    ? `golden model of ${machine.build}, no time`
    : `${machine.build} at ${machine.clock_mhz} MHz, ${machine.ports} memory port${machine.ports === 1 ? "" : "s"}, ${deviceName(machine)}`;
  $("basis").textContent = golden
    ? "golden model, rates of this computer"
    : machine.simulated
      ? `simulated at ${machine.clock_mhz} MHz`
      : "counted on the board";
  setHealth(failure ? "failed" : running.length ? "working" : "ready", failure);
}

function setHealth(word, failure) {
  const health = $("health");
  if (health.textContent !== word) health.textContent = word;
  health.className = `pill ${failure ? "bad" : word === "working" ? "busy" : ""}`;
  const banner = $("failure");
  const text = failure ? `The accelerator takes no more work: ${failure}` : "";
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !failure;
}

/** Ask for ever; `described` gets what the server says of itself. */
export async function watchMachine(described) {
  $("zoom").addEventListener("click", (event) => {
    const how = event.target.dataset.zoom;
    if (how === "hold") {
      hold = !hold;
      event.target.setAttribute("aria-pressed", hold);
    } else if (how) timeline?.zoom(how);
  });
  document.addEventListener("theme", () => Object.keys(curves).forEach((id) => delete curves[id]));
  for (;;) {
    let wait = IDLE_INTERVAL;
    if (!document.hidden) {
      try {
        const state = await (await request(`/machine?since=${passes.at(-1)?.number ?? 0}`)).json();
        if (state.last && state.last.number < (passes.at(-1)?.number ?? 0)) passes = []; // another server answers here now
        passes = [...passes, ...state.passes].slice(-KEPT);
        heading(state);
        described(state);
        sessions(state);
        if (state.last) {
          figures(state.machine, state.last);
          cyclesOf(state.machine, state.last);
          runs(state.last);
        }
        await updateTrace(state.machine);
        if (state.running.length) wait = BUSY_INTERVAL;
      } catch (error) {
        setHealth("not reached", error.status ? error.message : "the server cannot be reached");
      }
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
