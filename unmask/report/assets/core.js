// Errors are recorded first, so that a test (and a bug report) can see that drawing failed.
const root = document.documentElement;
window.addEventListener("error", (event) => { root.dataset.error = event.message; });

const data = JSON.parse(document.getElementById("run-data").textContent);
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

// Run data reaches the page through these two alone: text nodes and attributes, never markup.
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const known = (value) => value !== null && value !== undefined;

const minus = (text) => text.replace("-", "−");

function trimmed(value, digits) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    return minus(value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e"))
      .replace("e-", "e−");
  }
  if (size >= 10 ** digits) return grouped(value);
  return minus(String(Number(value.toPrecision(digits))));
}

function grouped(value) {
  const whole = Math.round(value).toString();
  return minus(Math.abs(value) < 1e4 ? whole : whole.replace(/\B(?=(\d{3})+$)/g, "\u202f"));
}

const format = {
  number: (value) => trimmed(value, 4),
  percent: (value) => `${minus((100 * value).toFixed(1))}\u202f%`,
  count: grouped,
  bytes: (value) => (value >= 2 ** 30
    ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`),
  duration(seconds) {
    if (seconds < 100) return `${trimmed(seconds, 3)} s`;
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  },
};

// A tick says no more than its axis needs: 40 %, not 40.0 %.
function tickLabel(value, kind) {
  if (kind === "percent") return `${trimmed(100 * value, 3)}\u202f%`;
  return trimmed(value, 3);
}
