// The cards at the top: accuracy before and after with intervals, and what the run took.
const MODE_TITLES = { greedy: "Greedy decoding", sampled: "Sampled decoding" };

function drawName() {
  document.getElementById("name").textContent = data.name;
  const { updates, sft_steps: sftSteps, config_hash: hash } = data.headline.facts;
  const parts = [
    known(updates) ? "RL post-training" : null,
    known(sftSteps) && !known(updates) ? "supervised fine-tuning" : null,
    known(hash) ? `config ${hash.slice(0, 12)}` : null,
  ];
  document.getElementById("subtitle").textContent = parts.filter(known).join(" · ");
}

function drawNotes() {
  if (data.notes.length === 0) return;
  const box = document.getElementById("notes");
  box.append(el("b", {}, "This page is made from a partial run"));
  box.append(el("ul", {}, ...data.notes.map((note) => el("li", {}, note))));
  box.hidden = false;
}

function drawHeadline() {
  const section = document.getElementById("headline");
  const { modes, source } = data.headline;
  if (modes.length > 0) {
    section.append(el("div", { class: "gains" }, ...modes.map((mode) => gainCard(mode, source))));
  }
  const facts = factRows(data.headline.facts);
  if (facts.length > 0) {
    section.append(el("dl", { class: "facts" }, ...facts.map(([name, value]) => (
      el("div", {}, el("dt", {}, name), el("dd", {}, value))))));
  }
}

function gainCard({ mode, before, after }, source) {
  const words = source === "results" ? ["before", "after"] : ["first evaluation", "latest"];
  const figures = el("div", { class: "gain-figures" });
  if (before) figures.append(el("span", { class: "before" }, format.percent(before.accuracy)));
  if (before && after) figures.append(el("span", { class: "arrow", "aria-label": "to" }, "→"));
  if (after) figures.append(el("span", { class: "after" }, format.percent(after.accuracy)));
  if (before && after) figures.append(differenceBadge(after.accuracy - before.accuracy));
  const texts = [[words[0], before], [words[1], after]].filter(([, side]) => side)
    .map(([word, side]) => `${word} ${intervalText(side)}`);
  return el("article", { class: "card gain" },
    el("header", {},
      el("h2", {}, MODE_TITLES[mode] ?? mode),
      el("span", {}, "exactly solved")),
    figures,
    intervalChart(before, after),
    el("p", { class: "interval-text" }, texts.join(" · ")));
}

function differenceBadge(difference) {
  const points = 100 * difference;
  const sign = points >= 0 ? "+" : "−";
  return el("span", { class: points >= 0 ? "difference" : "difference worse" },
    `${sign}${Math.abs(points).toFixed(1)} points`);
}

function intervalText({ accuracy, low, high, n }) {
  const interval = known(low) && known(high)
    ? ` [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]` : "";
  const count = known(n) ? `, n = ${format.count(n)}` : "";
  return `${format.percent(accuracy)}${interval}${count}`;
}

// Both measurements on one axis from 0 to 100 %, each with its 95 % Wilson interval.
function intervalChart(before, after) {
  const x = (share) => `${1.5 + 97 * share}%`;
  const drawing = svg("svg", {
    height: 52, role: "img", "aria-label": "accuracies with 95 % intervals",
  });
  drawing.append(svg("line", { class: "track", x1: x(0), x2: x(1), y1: 30, y2: 30 }));
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    drawing.append(svg("line", { class: "track", x1: x(share), x2: x(share), y1: 30, y2: 34 }));
    drawing.append(svg("text", { x: x(share), y: 48, "text-anchor": anchor },
      `${100 * share}${share === 1 ? " %" : ""}`));
  }
  if (before && after && Math.abs(after.accuracy - before.accuracy) > 0.05) {
    const head = svg("svg", { x: x(after.accuracy), y: 12, class: "arrow-head" }, svg("path", {
      class: "travel", d: after.accuracy > before.accuracy ? "M-5 -4L0 0L-5 4" : "M5 -4L0 0L5 4",
    }));
    drawing.append(head, svg("line", {
      class: "travel", x1: x(before.accuracy), x2: x(after.accuracy), y1: 12, y2: 12,
    }));
  }
  for (const [name, side] of [["before", before], ["after", after]]) {
    if (!side) continue;
    if (known(side.low) && known(side.high)) {
      drawing.append(svg("line", {
        class: `interval ${name}`, x1: x(side.low), x2: x(side.high), y1: 30, y2: 30,
      }));
    }
    drawing.append(svg("circle", { class: name, cx: x(side.accuracy), cy: 30, r: 5.5 }));
  }
  return drawing;
}

function factRows(facts) {
  const perSecond = known(facts.completions) && facts.seconds > 0
    ? facts.completions / facts.seconds : null;
  return [
    ["Wall time", facts.seconds, format.duration],
    ["Rollouts", facts.rollouts, format.count],
    ["Updates", facts.updates, format.count],
    ["Fine-tuning steps", facts.sft_steps, format.count],
    ["Completions", facts.completions, format.count],
    ["Completions per second", perSecond, (value) => trimmed(value, 3)],
    ["Peak memory", facts.peak_memory_bytes, format.bytes],
  ].filter(([, value]) => known(value)).map(([name, value, write]) => [name, write(value)]);
}
