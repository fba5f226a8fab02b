// The operators of one pass: a lane a unit, the level of the ring below, on one axis of time.

const LANE = 20;
const RING = 84;
const MARGIN = 74;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "#888";

/** A time in the largest unit that keeps it above 1. */
export function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  if (seconds >= 1e-3) return `${(1e3 * seconds).toFixed(seconds >= 0.1 ? 0 : 2)} ms`;
  return `${(1e6 * seconds).toFixed(1)} µs`;
}

export class Timeline {
  /** `units`: names of units and their operators, top to bottom. */
  constructor(root, hint, machine) {
    this.root = root;
    this.hint = hint;
    this.machine = machine;
    this.lanes = Object.keys(machine.units);
    this.laneOf = Object.fromEntries(Object.entries(machine.units).flatMap(([, names], i) => names.map((name) => [name, i])));
    this.milliseconds = 1e-3 / machine.clock_mhz;
    this.trace = null;
    this.plots = [];
    root.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.plots.forEach((plot) => plot.setSize({ width: root.clientWidth, height: plot.height }))).observe(
      root,
    );
    document.addEventListener("theme", () => this.trace && this.draw());
  }

  /** Show another pass, in whole. */
  show(trace) {
    this.trace = trace;
    this.range = [0, trace.cycles * this.milliseconds];
    this.operators = trace.operators.map(([name, start, end, layer, tokens, before, after]) => ({
      name,
      start: start * this.milliseconds,
      end: end * this.milliseconds,
      layer,
      tokens,
      cycles: end - start,
      before,
      after,
    }));
    this.draw();
  }

  draw() {
    this.plots.forEach((plot) => plot.destroy());
    const points = this.operators
      .flatMap((o) => [
        [o.start, o.before],
        [o.end, o.after],
      ])
      .sort((a, b) => a[0] - b[0]);
    const cursor = { sync: { key: "pass" }, y: false, points: { show: false }, drag: { x: true, y: false } };
    const scales = { x: { time: false, range: () => this.range } };
    const hooks = { setSelect: [(plot) => this.select(plot)], setCursor: [(plot) => this.point(plot)] };
    const axis = {
      stroke: colour("soft"),
      grid: { stroke: colour("line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui",
    };
    const width = this.root.clientWidth;
    const lanes = new uPlot(
      {
        width,
        height: LANE * this.lanes.length + 8,
        legend: { show: false },
        scales: { ...scales, y: { range: [0, this.lanes.length] } },
        cursor,
        padding: [4, 8, 4, 0],
        series: [{}, { show: false }],
        axes: [
          { ...axis, size: 0, values: () => [] },
          {
            ...axis,
            size: MARGIN,
            splits: () => this.lanes.map((_, i) => i + 0.5),
            values: () => [...this.lanes].reverse(),
            grid: { show: false },
          },
        ],
        hooks: { ...hooks, draw: [(plot) => this.bars(plot)] },
      },
      [
        [0, this.trace.cycles * this.milliseconds],
        [0, 0],
      ],
      this.root,
    );
    const ring = new uPlot(
      {
        width,
        height: RING,
        legend: { show: false },
        scales: { ...scales, y: { range: [0, this.machine.ring_beats] } },
        cursor,
        padding: [6, 8, 0, 0],
        series: [{}, { stroke: colour("accent"), fill: colour("accent-wash"), width: 1.3, points: { show: false } }],
        axes: [
          { ...axis, size: 26, space: 70, values: (_, splits) => splits.map((v) => (v ? `${+v.toFixed(4)} ms` : "0")) },
          { ...axis, size: MARGIN, splits: () => [0, this.machine.ring_beats], values: () => ["empty", "ring full"] },
        ],
        hooks,
      },
      [points.map((p) => p[0]), points.map((p) => p[1])],
      this.root,
    );
    this.plots = [lanes, ring];
    for (const plot of this.plots) {
      plot.over.addEventListener("dblclick", () => this.zoom("all"));
      plot.over.addEventListener("mouseleave", () => (this.hint.hidden = true));
    }
  }

  bars(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    const height = bbox.height / this.lanes.length;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const o of this.operators) {
      if (o.end < this.range[0] || o.start > this.range[1]) continue;
      const left = plot.valToPos(o.start, "x", true);
      const width = Math.max(ratio, plot.valToPos(o.end, "x", true) - left);
      ctx.fillStyle = colour(o.name);
      ctx.fillRect(
        left,
        bbox.top + this.laneOf[o.name] * height + 2 * ratio,
        width > 4 * ratio ? width - ratio / 2 : width,
        height - 4 * ratio,
      );
    }
    ctx.restore();
  }

  /** The operator under the pointer, in words. */
  point(plot) {
    const { left, top } = plot.cursor;
    if (!(left >= 0) || !plot.over.matches(":hover")) return;
    const at = plot.posToVal(left, "x");
    const lane = plot === this.plots[0] ? Math.floor((top / plot.over.clientHeight) * this.lanes.length) : -1;
    const slack = plot.posToVal(left + 2, "x") - at;
    const found = this.operators.filter((o) => o.start - slack <= at && at <= o.end + slack);
    const one = found.find((o) => this.laneOf[o.name] === lane);
    const lines = one ? [this.describe(one)] : found.map((o) => this.describe(o));
    this.hint.textContent = [`${at.toFixed(4)} ms`, ...lines].join("\n");
    this.hint.hidden = false;
    const box = plot.over.getBoundingClientRect();
    const x = Math.min(box.left + left + 14, innerWidth - this.hint.offsetWidth - 8);
    this.hint.style.left = `${x}px`;
    this.hint.style.top = `${box.top + top + 16}px`;
  }

  describe(o) {
    const layer = o.layer === null ? "" : `, layer ${o.layer}`;
    return `${o.name}${layer}, ${o.tokens} token${o.tokens === 1 ? "" : "s"}: ${o.cycles.toLocaleString("en")} cycles, ${duration(o.cycles / this.machine.clock_mhz / 1e6)}`;
  }

  select(plot) {
    const { left, width } = plot.select;
    if (width > 4) this.move(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
    if (width) plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  move(from, to) {
    const whole = this.trace.cycles * this.milliseconds;
    const width = Math.max(20 * this.milliseconds, Math.min(whole, to - from));
    const first = Math.min(Math.max(0, from), whole - width);
    this.range = [first, first + width];
    this.plots.forEach((plot) => plot.setScale("x", { min: first, max: first + width }));
  }

  zoom(how) {
    if (!this.trace) return;
    const [from, to] = this.range;
    const width = to - from;
    const changes = {
      in: [from + width / 4, to - width / 4],
      out: [from - width / 2, to + width / 2],
      left: [from - width / 3, to - width / 3],
      right: [from + width / 3, to + width / 3],
      all: [0, this.trace.cycles * this.milliseconds],
    };
    this.move(...changes[how]);
  }

  key(event) {
    const how = { ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", 0: "all" }[event.key];
    if (!how || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.zoom(how);
  }
}
