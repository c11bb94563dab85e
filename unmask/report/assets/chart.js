// One chart: draws its curves into an SVG and reads them out under a shared crosshair.
const MARGIN = { top: 10, right: 12, bottom: 24, left: 50 };

class Chart {
  constructor(spec, board, featured) {
    this.spec = spec;
    this.board = board;
    this.height = featured ? 250 : 168;
    this.logarithmic = false;
    this.drawing = svg("svg", { role: "img", tabindex: "0", "aria-label": this.summary() });
    this.reading = el("span", { class: "reading" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.figure = el("figure", { class: featured ? "chart featured" : "chart" },
      el("figcaption", {},
        el("h3", {}, spec.title), this.logButton(), this.reading,
        el("span", { class: "about" }, spec.about)),
      this.legend(), this.drawing, this.tip);
    this.listen();
  }

  series() {
    return [...this.spec.lines, ...this.spec.points];
  }

  summary() {
    const [line] = this.series();
    const values = line.y.filter(known);
    const write = format[this.spec.format];
    return `${this.spec.title}: from ${write(values[0])} to ${write(values[values.length - 1])}`;
  }

  logButton() {
    const range = extent(this.spec.lines.flatMap((line) => [...line.y, ...(line.low ?? [])]));
    const spans = range && range[0] > 0 && range[1] > 5 * range[0];
    if (this.spec.format === "percent" || !spans) return null;
    return el("button", {
      class: "log", type: "button", "aria-pressed": "false", title: "logarithmic axis",
      onclick: (event) => {
        this.logarithmic = !this.logarithmic;
        event.currentTarget.setAttribute("aria-pressed", String(this.logarithmic));
        this.draw();
      },
    }, "log");
  }

  legend() {
    const series = this.series();
    if (series.length < 2) return null;
    return el("div", { class: "legend" }, ...series.map((line, index) => el("span",
      { class: index < this.spec.lines.length ? "" : "dot" },
      el("i", { class: colour(index) }), line.name)));
  }

  listen() {
    const follow = (event) => {
      const box = this.drawing.getBoundingClientRect();
      this.board.point(this.fromPixel(event.clientX - box.left), this);
    };
    this.drawing.addEventListener("pointermove", follow);
    this.drawing.addEventListener("pointerdown", follow);
    this.drawing.addEventListener("pointerleave", () => this.board.point(null, null));
    this.drawing.addEventListener("blur", () => this.board.point(null, null));
    this.drawing.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const xs = this.board.xs(this.series()[0]).filter(known);
      const at = this.board.at === null ? -1 : nearest(xs, this.board.at);
      this.board.point(xs[Math.min(xs.length - 1, Math.max(0, at + move))], this);
    });
  }

  draw() {
    const width = this.drawing.clientWidth || 380;
    const [left, right] = [MARGIN.left, width - MARGIN.right];
    const [top, bottom] = [MARGIN.top, this.height - MARGIN.bottom];
    this.domain = this.board.domain(this.series());
    this.x = scaler(this.domain, [left, right], false);
    this.fromPixel = scaler([left, right], this.domain, false);
    const vertical = verticalDomain(this.spec, this.logarithmic);
    this.y = scaler(vertical, [bottom, top], this.logarithmic);
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.drawing.replaceChildren();
    this.drawGrid(vertical, left, right, top, bottom);
    const clip = `clip-${this.board.charts.indexOf(this)}`;
    this.drawing.append(svg("clipPath", { id: clip },
      svg("rect", {
        x: left - 5, y: top - 4, width: right - left + 10, height: bottom - top + 8,
      })));
    this.plot = svg("g", { "clip-path": `url(#${clip})` });
    this.drawing.append(this.plot);
    this.shown = this.series().map((line, index) => (
      index < this.spec.lines.length ? this.drawLine(line, index) : this.drawPoints(line, index)));
    this.hover = svg("g");
    this.drawing.append(this.hover);
    this.read(this.board.at);
  }

  drawGrid(vertical, left, right, top, bottom) {
    const ticks = this.logarithmic ? logTicks(...vertical)
      : niceTicks(...vertical, this.height > 200 ? 6 : 4);
    for (const tick of ticks) {
      const y = this.y(tick);
      this.drawing.append(svg("line", { class: "grid-line", x1: left, x2: right, y1: y, y2: y }));
      this.drawing.append(svg("text", { x: left - 7, y: y + 4, "text-anchor": "end" },
        tickLabel(tick, this.spec.format)));
    }
    this.drawing.append(
      svg("line", { class: "axis-line", x1: left, x2: right, y1: bottom, y2: bottom }));
    const [factor, unit] = this.board.unit();
    const scaled = this.domain.map((value) => value / factor);
    const wanted = Math.min(8, Math.max(2, Math.floor((right - left) / 52)));
    for (const tick of niceTicks(...scaled, wanted)) {
      const x = this.x(tick * factor);
      const last = x > right - 16 - 7 * unit.length;
      this.drawing.append(
        svg("line", { class: "axis-line", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      this.drawing.append(svg("text", { x, y: bottom + 17, "text-anchor": "middle" },
        last ? "" : tickLabel(tick, "number")));
    }
    this.drawing.append(svg("text", { x: right, y: bottom + 17, "text-anchor": "end" }, unit));
    if (known(this.spec.reference)) {
      const y = this.y(this.spec.reference);
      this.drawing.append(svg("line", { class: "reference", x1: left, x2: right, y1: y, y2: y }));
    }
  }

  drawLine(line, index) {
    const xs = this.board.xs(line);
    const weight = this.board.smoothing;
    const shown = smoothed(line.y, weight);
    const group = svg("g", { class: colour(index) });
    if (line.low) {
      const edges = [smoothed(line.low, weight), smoothed(line.high, weight)];
      group.append(svg("path", { class: "band", d: this.bandPath(xs, ...edges) }));
    }
    if (weight > 0) group.append(svg("path", { class: "curve raw", d: this.path(xs, line.y) }));
    group.append(svg("path", { class: "curve", d: this.path(xs, shown) }));
    if (shown.filter(known).length === 1) {
      const only = shown.findIndex(known);
      group.append(svg("circle", {
        class: "marker", cx: this.x(xs[only]), cy: this.y(shown[only]), r: 4,
      }));
    }
    this.plot.append(group);
    return shown;
  }

  drawPoints(line, index) {
    const xs = this.board.xs(line);
    const group = svg("g", { class: colour(index) });
    group.append(svg("path", { class: "joint", d: this.path(xs, line.y) }));
    line.y.forEach((y, at) => {
      if (!this.drawable(xs[at], y)) return;
      const x = this.x(xs[at]);
      if (line.low && known(line.low[at]) && known(line.high[at])) {
        const [low, high] = [this.y(line.low[at]), this.y(line.high[at])];
        group.append(svg("path", {
          class: "whisker", d: `M${x} ${low}V${high}M${x - 3} ${low}h6M${x - 3} ${high}h6`,
        }));
      }
      group.append(svg("circle", { class: "point", cx: x, cy: this.y(y), r: 3.5 }));
    });
    this.plot.append(group);
    return line.y;
  }

  drawable(x, y) {
    return known(x) && known(y) && (!this.logarithmic || y > 0);
  }

  path(xs, ys) {
    let open = false;
    let path = "";
    ys.forEach((y, index) => {
      if (!this.drawable(xs[index], y)) { open = false; return; }
      path += `${open ? "L" : "M"}${this.x(xs[index]).toFixed(1)} ${this.y(y).toFixed(1)}`;
      open = true;
    });
    return path;
  }

  // Each unbroken stretch of the band is its own closed shape: along the top, back underneath.
  bandPath(xs, lows, highs) {
    let path = "";
    let stretch = [];
    const close = () => {
      if (stretch.length > 1) {
        const there = stretch.map(([x, , high]) => `${x} ${high}`);
        const back = stretch.map(([x, low]) => `${x} ${low}`).reverse();
        path += `M${[...there, ...back].join("L")}Z`;
      }
      stretch = [];
    };
    const floor = this.height - MARGIN.bottom;
    xs.forEach((x, index) => {
      if (!this.drawable(x, highs[index]) || !known(lows[index])) { close(); return; }
      const low = this.logarithmic && lows[index] <= 0 ? floor : this.y(lows[index]);
      stretch.push([this.x(x), low, this.y(highs[index])].map((value) => value.toFixed(1)));
    });
    close();
    return path;
  }

  // Shows the values nearest to `at`, a position on the shared axis; the latest ones for null.
  read(at) {
    this.hover.replaceChildren();
    const rows = [];
    this.series().forEach((line, index) => {
      const xs = this.board.xs(line);
      const drawn = xs.map((x, i) => (this.drawable(x, this.shown[index][i]) ? x : null));
      const found = nearest(drawn, at === null ? Infinity : at);
      const last = drawn.findLastIndex(known);
      const i = at === null ? last : found;
      if (i >= 0) rows.push({ line, index, i, x: xs[i], y: this.shown[index][i] });
    });
    const main = rows.find((row) => row.index === 0);
    this.reading.textContent = main ? format[this.spec.format](main.y) : "";
    this.tip.hidden = true;
    if (at === null || rows.length === 0) return;
    const x = this.x(Math.min(this.domain[1], Math.max(this.domain[0], at)));
    this.hover.append(svg("line", {
      class: "crosshair", x1: x, x2: x, y1: MARGIN.top, y2: this.height - MARGIN.bottom,
    }));
    for (const row of rows) {
      this.hover.append(svg("circle", {
        class: `marker ${colour(row.index)}`, cx: this.x(row.x), cy: this.y(row.y), r: 4,
      }));
    }
    if (this.board.pointed === this) this.showTip(rows, x);
  }

  showTip(rows, x) {
    const write = format[this.spec.format];
    const lines = rows.map(({ line, index, i, x: position, y }) => {
      const edges = line.low && known(line.low[i]) && known(line.high[i])
        ? ` [${write(line.low[i])}, ${write(line.high[i])}]` : "";
      const raw = this.board.smoothing > 0 && index < this.spec.lines.length
        ? ` (raw ${write(line.y[i])})` : "";
      const elsewhere = position === rows[0].x ? "" : `, ${this.board.describe(position)}`;
      return el("div", {}, el("span", { class: colour(index) }, `${line.name}${elsewhere}`),
        el("b", {}, `${write(y)}${raw}${edges}`));
    });
    this.tip.replaceChildren(
      el("div", { class: "where" }, this.board.describe(rows[0].x)), ...lines);
    this.tip.hidden = false;
    const room = this.figure.clientWidth - this.tip.offsetWidth - 8;
    const offset = this.drawing.getBoundingClientRect().left
      - this.figure.getBoundingClientRect().left + x;
    const beside = offset > room - 14 ? offset - this.tip.offsetWidth - 14 : offset + 14;
    this.tip.style.left = `${Math.max(8, Math.min(room, beside))}px`;
    this.tip.style.top = `${this.figure.offsetHeight - this.height + 4}px`;
  }
}

const colour = (index) => `series-${(index % 10) + 1}`;
