// The viewer: one completion as a canvas of tokens, stepped from all masked to all revealed.
class Viewer {
  constructor(completions, choose, leave) {
    this.completions = completions;
    this.choose = choose;
    this.leave = leave;
    this.timer = null;
    this.badges = el("div", { class: "badges" });
    this.title = el("h3");
    this.promptText = el("pre");
    this.canvas = el("div", { class: "tokens", tabindex: "0", role: "group" });
    this.strip = svg("svg", { class: "steps", role: "img", preserveAspectRatio: "none" });
    this.slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "denoising step",
      oninput: () => { this.pause(); this.show(Number(this.slider.value)); } });
    this.playButton = el("button", { class: "button primary", type: "button",
      onclick: () => (this.timer ? this.pause() : this.play()) });
    this.positionText = el("p", { class: "position" });
    this.siblings = el("div", { class: "siblings" });
    this.element = el("article", {
      class: "card viewer", tabindex: "-1", "aria-label": "unmasking",
    },
      el("header", {}, this.title, this.badges),
      el("details", { class: "prompt", open: true }, el("summary", {}, "prompt"), this.promptText),
      this.canvas, this.key(), this.strip, this.player(), this.positionText, this.siblings);
    this.strip.addEventListener("pointerdown", (event) => this.seek(event));
    this.element.addEventListener("keydown", (event) => this.press(event));
  }

  player() {
    const step = (by, label, sign) => el("button", { class: "button", type: "button",
      "aria-label": label, onclick: () => { this.pause(); this.show(this.at + by); } }, sign);
    return el("div", { class: "player" }, this.playButton,
      step(-1, "previous step", "‹"), this.slider, step(1, "next step", "›"));
  }

  key() {
    return el("div", { class: "token-key" },
      el("span", {}, el("i", { class: "token hidden" }), "masked"),
      el("span", {}, "unsure", el("i", { class: "ramp" }), "sure"),
      el("span", {}, el("i", { class: "token filled" }), "never denoised"));
  }

  open(row) {
    this.pause();
    this.row = row;
    const tokens = row.tokens.map((index) => this.completions.vocabulary[index]);
    const limit = this.completions.steps ?? Infinity;
    this.stops = [...new Set(row.step_map)].filter((step) => step < limit).sort((a, b) => a - b);
    this.numFilled = row.step_map.filter((step) => step >= limit).length;
    this.title.textContent = ["rollout", "group", "sequence"].filter((name) => known(row[name]))
      .map((name) => `${name} ${row[name]}`).join(" · ");
    this.promptText.textContent = this.completions.prompts[row.prompt];
    this.drawBadges(row);
    this.drawTokens(tokens, row, limit);
    this.drawStrip(row);
    this.drawSiblings(row);
    this.slider.max = this.last();
    const recorded = tokens.length > 0;
    this.strip.toggleAttribute("hidden", !recorded);
    this.slider.parentElement.toggleAttribute("hidden", !recorded);
    if (!recorded) this.canvas.textContent = row.completion;
    this.show(this.last());
  }

  // Stop 0 is all masked, stop k follows the k-th step that revealed something, and one more
  // stop shows the tokens that were filled in after an early stop.
  last() {
    return this.stops.length + (this.numFilled > 0 ? 1 : 0);
  }

  drawBadges(row) {
    const badge = (text, kind = "") => el("span", { class: `badge ${kind}` }, text);
    const signed = (value) => `${value > 0 ? "+" : ""}${trimmed(value, 3)}`;
    const badges = [];
    if (known(row.solved)) badges.push(row.solved ? badge("solved", "good") : badge("not solved"));
    if (known(row.reward)) badges.push(badge(`reward ${trimmed(row.reward, 3)}`));
    if (known(row.advantage)) {
      const kind = row.advantage > 0 ? "good" : row.advantage < 0 ? "poor" : "";
      badges.push(badge(`advantage ${signed(row.advantage)}`, kind));
    }
    const parts = Object.entries(row.rewards);
    if (parts.length > 1 || (parts.length === 1 && parts[0][1] !== row.reward)) {
      badges.push(...parts.map(([name, value]) => (
        badge(`${name} ${known(value) ? trimmed(value, 3) : "none"}`))));
    }
    this.badges.replaceChildren(...badges);
  }

  drawTokens(tokens, row, limit) {
    const tail = tailStart(tokens);
    this.canvas.replaceChildren();
    this.tiles = tokens.map((token, index) => {
      const sure = row.confidence[index];
      const filled = row.step_map[index] >= limit;
      const control = /^<[^\s<>]{1,40}>$/.test(token);
      const text = index >= tail ? "" : token.replaceAll("\n", "↵");
      const tile = el("span", { class: "token" }, text);
      tile.classList.toggle("control", control);
      tile.classList.toggle("tail", index >= tail);
      tile.classList.toggle("no-confidence", !known(sure) && !filled);
      if (known(sure)) tile.style.setProperty("--confidence", `${sure}%`);
      tile.title = [
        JSON.stringify(token),
        filled ? "never denoised" : `step ${row.step_map[index] + 1}`,
        known(sure) && !filled ? `confidence ${sure} %` : null,
      ].filter(known).join(" · ");
      this.canvas.append(tile, token.includes("\n") ? el("br") : "");
      return tile;
    });
  }

  // One bar a stop: as high as the number of tokens revealed there, coloured as sure as they were.
  drawStrip(row) {
    const [width, height] = [600, 46];
    const bars = this.stops.map((stop) => {
      const revealed = row.step_map.flatMap((step, index) => (step === stop ? [index] : []));
      const sure = revealed.map((index) => row.confidence[index]).filter(known);
      const mean = sure.length ? sure.reduce((a, b) => a + b, 0) / sure.length : null;
      return { stop, count: revealed.length, mean };
    });
    const most = Math.max(1, ...bars.map((bar) => bar.count));
    const slot = width / Math.max(1, bars.length);
    this.strip.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.strip.setAttribute("aria-label", "tokens revealed at each step");
    this.bars = bars.map(({ stop, count, mean }, index) => {
      const tall = Math.max(4, (count / most) * (height - 4));
      const bar = svg("rect", {
        x: index * slot + slot * 0.08, width: slot * 0.84, y: height - tall, height: tall, rx: 1.5,
      }, svg("title", {}, [
        `step ${stop + 1}: ${count} tokens`,
        known(mean) ? `mean confidence ${mean.toFixed(0)} %` : null,
      ].filter(known).join(", ")));
      bar.style.fill = known(mean)
        ? `color-mix(in oklab, var(--sure) ${mean}%, var(--unsure))` : "var(--grid)";
      return bar;
    });
    this.strip.replaceChildren(...this.bars);
  }

  drawSiblings(row) {
    const group = this.completions.rows.filter((other) => known(row.group)
      && other.rollout === row.rollout && other.group === row.group);
    if (group.length < 2) { this.siblings.replaceChildren(); return; }
    this.siblings.replaceChildren("same prompt:", ...group.map((other) => el("button", {
      class: "button", type: "button", "aria-current": String(other === row),
      title: "open this completion of the group", onclick: () => this.choose(other),
    }, known(other.reward) ? trimmed(other.reward, 3) : "none")));
  }

  show(position) {
    this.at = Math.max(0, Math.min(this.last(), position));
    this.slider.value = this.at;
    const now = this.at === 0 ? -1 : this.stops[this.at - 1] ?? Infinity;
    const limit = this.completions.steps ?? Infinity;
    this.tiles.forEach((tile, index) => {
      const step = this.row.step_map[index];
      const filled = step >= limit;
      tile.classList.toggle("hidden", filled ? now !== Infinity : step > now);
      tile.classList.toggle("filled", filled && now === Infinity);
      tile.classList.toggle("fresh", step === now && this.at < this.last());
    });
    this.follow();
    this.bars.forEach((bar, index) => {
      bar.classList.toggle("done", index < this.at);
      bar.classList.toggle("current", index === this.at - 1);
    });
    const hidden = this.tiles.filter((tile) => tile.classList.contains("hidden")).length;
    const steps = this.completions.steps ? ` of ${this.completions.steps}` : "";
    const where = this.at === 0 ? "all masked"
      : now === Infinity ? `stopped early, ${this.numFilled} tokens never denoised`
        : `denoising step ${now + 1}${steps}`;
    const text = this.tiles.length === 0 ? "The steps of this completion were not recorded."
      : `${where} · ${this.tiles.length - hidden} of ${this.tiles.length} tokens revealed`;
    this.positionText.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
    this.canvas.setAttribute("aria-label", `completion, ${text}`);
    this.playButton.textContent = this.timer ? "Pause" : "Play";
  }

  // A long canvas scrolls to where tokens appear, unless some of them are in view already.
  follow() {
    const fresh = this.tiles.filter((tile) => tile.classList.contains("fresh"));
    const { scrollTop: top, clientHeight: height } = this.canvas;
    const inView = ({ offsetTop }) => offsetTop >= top && offsetTop < top + height - 20;
    if (fresh.length > 0 && !fresh.some(inView)) this.canvas.scrollTop = fresh[0].offsetTop - 60;
  }

  play() {
    if (this.at === this.last()) this.show(0);
    const pause = Math.min(400, Math.max(40, 5000 / Math.max(1, this.last())));
    this.timer = window.setInterval(() => {
      this.show(this.at + 1);
      if (this.at === this.last()) this.pause();
    }, pause);
    this.playButton.textContent = "Pause";
  }

  pause() {
    window.clearInterval(this.timer);
    this.timer = null;
    this.playButton.textContent = "Play";
  }

  seek(event) {
    const box = this.strip.getBoundingClientRect();
    this.pause();
    this.show(Math.ceil(((event.clientX - box.left) / box.width) * this.stops.length));
  }

  press(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key in moves && event.target !== this.slider) {
      event.preventDefault();
      this.pause();
      this.show(this.at + moves[event.key]);
    } else if (event.key === "Escape") {
      this.leave();
    } else if (event.key === " " && !["BUTTON", "SUMMARY"].includes(event.target.tagName)) {
      event.preventDefault();
      if (this.timer) this.pause();
      else this.play();
    }
  }
}

// Where the run of equal control tokens at the end begins (padding after EOS), if it is long.
function tailStart(tokens) {
  const last = tokens[tokens.length - 1];
  if (!last || !/^<[^\s<>]{1,40}>$/.test(last)) return tokens.length;
  let start = tokens.length;
  while (start > 0 && tokens[start - 1] === last) start -= 1;
  return tokens.length - start > 4 ? start + 1 : tokens.length;
}
