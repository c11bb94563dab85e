// The board holds what all charts share: horizontal axis, smoothing and the crosshair.
const AXIS_NAMES = data.axis_names ?? { rollout: "rollout", step: "update", time: "time" };

class Board {
  constructor(panels, axes) {
    this.axes = axes;
    this.axis = this.choices()[0] ?? "step";
    this.smoothing = 0.6;
    this.at = null;
    this.pointed = null;
    this.charts = [];
    this.elements = panels.map((panel) => this.panel(panel));
  }

  choices() {
    const recorded = (name) => Object.values(this.axes).some((axis) => axis[name].some(known));
    return Object.keys(AXIS_NAMES).filter(recorded);
  }

  xs(line) {
    const axis = this.axes[line.axis];
    return axis[this.axis].some(known) ? axis[this.axis] : axis.step;
  }

  domain(series) {
    const fineTuning = series.every((line) => line.axis === "sft");
    const sharing = Object.keys(this.axes).filter((axis) => (axis === "sft") === fineTuning);
    const [low, high] = extent(sharing.flatMap((axis) => this.xs({ axis }))) ?? [0, 1];
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  }

  unit() {
    if (this.axis !== "time") return [1, AXIS_NAMES[this.axis]];
    const [, longest] = extent(Object.values(this.axes).flatMap((axis) => axis.time));
    return longest >= 7200 ? [3600, "hours"] : longest >= 180 ? [60, "min"] : [1, "s"];
  }

  describe(x) {
    if (this.axis === "time") return format.duration(x);
    return `${AXIS_NAMES[this.axis]} ${trimmed(x, 6)}`;
  }

  point(at, chart) {
    this.at = at;
    this.pointed = chart;
    for (const each of this.charts) if (each.hover) each.read(at);
  }

  draw() {
    for (const chart of this.charts) {
      if (chart.figure.closest("details:not([open])")) continue;
      chart.draw();
    }
  }

  panel(panel) {
    const charts = panel.charts.map((spec, index) => {
      const featured = !panel.folded && index < 2;
      return new Chart(spec, this, featured);
    });
    this.charts.push(...charts);
    const grid = el("div", { class: "chart-grid" }, ...charts.map((chart) => chart.figure));
    const missing = panel.missing.length === 0 ? null : el("p", { class: "remark" },
      `Not recorded in this run: ${panel.missing.join(", ")}.`);
    if (!panel.folded) return [el("h2", {}, panel.title), el("div", {}, grid, missing)];
    const folded = el("details", { class: "panel", ontoggle: () => this.draw() },
      el("summary", {}, `${panel.title} (${panel.charts.length})`), grid);
    return [null, folded];
  }

  controls() {
    const axis = el("select", { id: "axis", onchange: (event) => {
      this.axis = event.currentTarget.value;
      this.point(null, null);
      this.draw();
    } }, ...this.choices().map((name) => el("option", { value: name }, AXIS_NAMES[name])));
    const shown = el("output", { for: "smoothing" }, this.smoothing.toFixed(2));
    const slider = el("input", {
      id: "smoothing", type: "range", min: 0, max: 0.98, step: 0.02, value: this.smoothing,
      title: "exponential moving average; the raw line stays behind it",
      oninput: (event) => {
        this.smoothing = Number(event.currentTarget.value);
        shown.textContent = this.smoothing.toFixed(2);
        this.draw();
      },
    });
    return el("div", { class: "controls" },
      el("label", {}, "over", axis), el("label", {}, "smoothing", slider, shown));
  }
}

function drawCharts() {
  if (data.panels.length === 0) return;
  const section = document.getElementById("training");
  const board = new Board(data.panels, data.axes);
  board.elements.forEach(([title, body], index) => {
    if (title) {
      const controls = index === 0 ? board.controls() : null;
      section.append(el("div", { class: "section-head" }, title, controls));
    }
    section.append(body);
  });
  section.append(...data.remarks.map((text) => el("p", { class: "remark" }, text)));
  board.draw();
  let width = section.clientWidth;
  new ResizeObserver(() => {
    if (section.clientWidth === width) return;
    width = section.clientWidth;
    board.draw();
  }).observe(section);
}
