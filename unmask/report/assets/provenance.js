// What a run was made of: its configuration and its environment, folded.
function drawProvenance() {
  const section = document.getElementById("provenance");
  if (known(data.config)) {
    section.append(el("details", { class: "text" }, el("summary", {}, "Resolved configuration"),
      el("pre", {}, data.config)));
  }
  if (data.environment.length > 0) {
    const rows = data.environment.map(([key, value]) => (
      el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, value))));
    section.append(el("details", { class: "text" }, el("summary", {}, "Environment"),
      el("table", { class: "environment" }, el("tbody", {}, ...rows))));
  }
}
