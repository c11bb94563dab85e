// The page of a study: scores with their intervals, learning curves, every point of the tuning.
const study = data.results;
const methodNames = Object.keys(study.methods);
const drawnNames = methodNames.filter((name) => study.methods[name].score);
const writeScore = format[study.quantity === "solved" ? "percent" : "number"];
const writeSetting = (value) => (typeof value === "number" ? trimmed(value, 3) : String(value));
const colourOf = (name) => colour(drawnNames.indexOf(name));

function drawStudyName() {
  document.getElementById("name").textContent = data.name;
  const seeds = Math.max(...methodNames.map((name) => Object.keys(study.methods[name].runs).length));
  document.getElementById("subtitle").textContent = [
    `${methodNames.length} methods`, `${seeds} seed${seeds === 1 ? "" : "s"} each`,
    `${study.measure} decoding on held-out problems`,
  ].join(" · ");
}

function drawUnfinished() {
  if (study.unfinished.length === 0) return;
  const box = document.getElementById("notes");
  box.append(el("b", {}, "Runs without results"));
  box.append(el("ul", {}, ...study.unfinished.map((note) => el("li", {}, note))));
  box.hidden = false;
}

function scoreTable(heads, rows) {
  return el("div", { class: "card table-wrap" }, el("table", { class: "scores" },
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows)));
}

function drawScores() {
  const section = document.getElementById("headline");
  const values = drawnNames.flatMap((name) => {
    const { score, runs } = study.methods[name];
    return [score.low, score.high, ...Object.values(runs).map((run) => run.after)];
  });
  const range = extent([...values, study.quantity === "solved" ? 0 : null]) ?? [0, 1];
  const best = Math.max(...drawnNames.map((name) => study.methods[name].score.iqm));
  const equal = study.equal_forwards;
  const heads = ["method", study.tuned ?? "setting", `${study.quantity}: IQM, 95 % interval`, "",
    known(equal) ? `at ${grouped(equal)} forwards` : "at equal forwards",
    "forwards", "time", "peak memory"];
  const rows = methodNames.map((name) => {
    const row = study.methods[name];
    const value = known(row.value) ? writeSetting(row.value) : "–";
    const cells = [el("td", {}, name), el("td", { class: row.at_edge ? "edge" : "" },
      row.at_edge ? `${value} (edge)` : value)];
    if (!row.score) return el("tr", {}, ...cells, el("td", { colspan: "6" }, "no finished run"));
    const { score, costs } = row;
    return el("tr", {}, ...cells,
      el("td", { class: `wide ${colourOf(name)}` }, intervalBar(row, range)),
      el("td", { class: score.iqm === best ? "best" : "" }, writeScore(score.iqm), " ",
        el("small", {}, `${writeScore(score.low)} to ${writeScore(score.high)}`)),
      el("td", {}, known(row.at_equal_forwards) ? writeScore(row.at_equal_forwards) : "–"),
      el("td", {}, grouped(costs.forwards)), el("td", {}, format.duration(costs.seconds)),
      el("td", {}, format.bytes(costs.peak_memory_bytes)));
  });
  section.append(scoreTable(heads, rows), el("p", { class: "remark" },
    "Interquartile mean over seeds (the mean, below four) with a stratified percentile bootstrap "
    + "interval; each dot is a seed. With three seeds or fewer the interval is their range. Time "
    + "and forwards are means of a run. Edge: the best value ends the grid, so a better one may "
    + "lie outside."));
}

function intervalBar({ score, runs }, range) {
  const x = scaler(range, [0, 100], false);
  const drawing = svg("svg", { role: "img", viewBox: "0 0 100 22", preserveAspectRatio: "none",
    "aria-label": `${writeScore(score.low)} to ${writeScore(score.high)}` });
  drawing.append(
    svg("rect", { x: x(score.low), y: 4, width: Math.max(0.4, x(score.high) - x(score.low)),
      height: 14 }),
    svg("line", { class: "iqm", x1: x(score.iqm), x2: x(score.iqm), y1: 2, y2: 20,
      "vector-effect": "non-scaling-stroke" }));
  for (const run of Object.values(runs)) {
    drawing.append(svg("ellipse", { cx: x(run.after), cy: 11, rx: 0.9, ry: 3, fill: "currentColor" }));
  }
  return drawing;
}

function drawSwitches() {
  const section = document.getElementById("training");
  const head = section.querySelector(".section-head");
  if (!head) return;
  const boxes = drawnNames.map((name, index) => el("label", { class: colour(index) },
    el("input", { type: "checkbox", checked: true, onchange: (event) => {
      section.classList.toggle(`hide-${(index % 10) + 1}`, !event.currentTarget.checked);
    } }), el("i"), el("span", {}, name)));
  head.after(el("div", { class: "methods", role: "group", "aria-label": "methods shown" }, ...boxes));
}

function drawTuning() {
  if (!known(study.tuned)) return;
  const section = document.getElementById("completions");
  const values = (Object.values(study.methods)[0]?.grid ?? []).map((point) => point.value);
  const rows = methodNames.map((name) => {
    const row = study.methods[name];
    return el("tr", {}, el("td", {}, name), ...row.grid.map((point) => el("td",
      { class: point.value === row.value ? "best" : "" },
      known(point.mean) ? writeScore(point.mean) : "not finished")));
  });
  section.append(el("div", { class: "section-head" }, el("h2", {}, `Tuning of ${study.tuned}`)),
    scoreTable(["method", ...values.map(writeSetting)], rows), el("p", { class: "remark" },
      "Every grid point of every method: mean over the tuning seeds, which are not among the "
      + "reported ones, on problems that are not among the reported ones. The best is used."));
}

drawStudyName();
drawUnfinished();
drawScores();
drawCharts();
drawSwitches();
drawTuning();
drawProvenance();
root.dataset.ready = "true";
