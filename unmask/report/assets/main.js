// Draws the page from its data, part by part, and says when all of it stands.
function drawCompletions() {
  const { completions } = data;
  if (completions.rows.length === 0) return;
  const section = document.getElementById("completions");
  let table = null;
  const viewer = new Viewer(completions, (row) => open(row), () => table.focus());
  function open(row) {
    table.select(row);
    viewer.open(row);
  }
  table = new CompletionTable(completions, (row) => {
    open(row);
    viewer.element.focus({ preventScroll: true });
    viewer.element.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    if (!calm && row.tokens.length > 0) { viewer.show(0); viewer.play(); }
  });
  section.append(
    el("div", { class: "section-head" }, el("h2", {}, "Watch a completion being unmasked"),
      el("span", { class: "muted" }, "choose a row · arrow keys step · space plays")),
    el("div", { class: "bench" }, viewer.element, table.element));
  const latest = table.visible().filter((row, _, rows) => row.rollout === rows[0].rollout);
  const first = latest
    .reduce((best, row) => ((row.reward ?? -Infinity) > (best.reward ?? -Infinity) ? row : best));
  open(first);
  viewer.show(Math.round(viewer.stops.length * 0.6));
}

drawName();
drawNotes();
drawHeadline();
drawCharts();
drawCompletions();
drawProvenance();
root.dataset.ready = "true";
