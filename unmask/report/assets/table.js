// The table of completions: sorted, filtered, searched; choosing a row opens it in the viewer.
const COLUMNS = [
  ["rollout", "rollout", (row) => row.rollout, (value) => String(value)],
  ["reward", "reward", (row) => row.reward, (value) => trimmed(value, 3)],
  ["advantage", "adv.", (row) => row.advantage, (value) => trimmed(value, 3)],
  ["solved", "solved", (row) => row.solved, (value) => (value ? "✓" : "–")],
];

class CompletionTable {
  constructor(completions, open) {
    this.completions = completions;
    this.open = open;
    this.sort = { key: "rollout", descending: true };
    this.rollout = "";
    this.words = "";
    this.selected = null;
    this.body = el("tbody");
    this.count = el("p", { class: "table-count", role: "status" });
    this.heads = Object.fromEntries(COLUMNS.map((column) => [column[0], this.head(column)]));
    this.element = el("div", {}, this.filters(),
      el("div", {
        class: "table-scroll", tabindex: "0", role: "region", "aria-label": "completions",
      },
        el("table", { class: "completions" },
          el("thead", {}, el("tr", {}, ...Object.values(this.heads),
            el("th", { class: "plain", scope: "col" }, "completion"))),
          this.body)),
      this.count);
    this.draw();
  }

  head([key, title]) {
    return el("th", { scope: "col", class: key === "solved" ? "wide" : "" },
      el("button", { type: "button", onclick: () => {
        const descending = this.sort.key === key ? !this.sort.descending : true;
        this.sort = { key, descending };
        this.draw();
      } }, title));
  }

  filters() {
    const options = this.completions.rollouts.map(({ rollout, shown, total }) => (
      el("option", { value: String(rollout) }, `rollout ${rollout} (${shown} of ${total})`)));
    return el("div", { class: "table-filters" },
      el("select", { "aria-label": "rollout", onchange: (event) => {
        this.rollout = event.currentTarget.value;
        this.draw();
      } }, el("option", { value: "" }, "all rollouts here"), ...options),
      el("input", { type: "search", placeholder: "search prompts and completions",
        "aria-label": "search prompts and completions",
        oninput: (event) => {
          this.words = event.currentTarget.value.toLowerCase();
          this.draw();
        } }));
  }

  visible() {
    const { rows, prompts } = this.completions;
    const value = COLUMNS.find(([key]) => key === this.sort.key)[2];
    const sign = this.sort.descending ? -1 : 1;
    return rows
      .filter((row) => this.rollout === "" || String(row.rollout) === this.rollout)
      .filter((row) => this.words === "" || row.completion.toLowerCase().includes(this.words)
        || prompts[row.prompt].toLowerCase().includes(this.words))
      .sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        if (!known(left) || !known(right)) return Number(!known(left)) - Number(!known(right));
        return sign * (left - right);
      });
  }

  draw() {
    for (const [key, head] of Object.entries(this.heads)) {
      const chosen = key === this.sort.key;
      const direction = this.sort.descending ? "descending" : "ascending";
      if (chosen) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
      const title = COLUMNS.find((column) => column[0] === key)[1];
      head.firstChild.textContent = chosen ? `${title} ${this.sort.descending ? "↓" : "↑"}` : title;
    }
    this.lines = new Map();
    const rows = this.visible();
    this.body.replaceChildren(...rows.map((row) => this.row(row)));
    const { rollouts, files } = this.completions;
    this.count.textContent = `${rows.length} of ${this.completions.rows.length} completions, from `
      + `${rollouts.length} of the run's ${files} recorded rollouts`;
  }

  row(row) {
    const cells = COLUMNS.map(([key, , value, write]) => {
      const marked = key === "solved" && known(row.solved)
        ? (row.solved ? "wide solved-yes" : "wide solved-no") : key === "solved" ? "wide" : "";
      return el("td", { class: marked }, known(value(row)) ? write(value(row)) : "");
    });
    const text = row.completion.replace(/\s+/g, " ").trim() || "(empty)";
    const line = el("tr", {
      "aria-selected": String(row === this.selected), onclick: () => this.open(row),
    }, ...cells, el("td", { class: "preview" },
      el("button", { type: "button" }, text.slice(0, 160))));
    this.lines.set(row, line);
    return line;
  }

  select(row) {
    this.lines.get(this.selected)?.setAttribute("aria-selected", "false");
    this.lines.get(row)?.setAttribute("aria-selected", "true");
    this.selected = row;
  }

  focus() {
    this.lines.get(this.selected)?.querySelector("button").focus();
  }
}
