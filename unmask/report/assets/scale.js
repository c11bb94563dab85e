// Numbers to pixels: ticks, domains, smoothing. Nothing here touches the page.
function niceTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const factors = Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) {
    for (const factor of factors) {
      const tick = Number(`${factor}e${p}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  const every = Math.ceil(ticks.length / 6);
  return ticks.filter((_, index) => index % every === 0);
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!known(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

// Lines and points are always inside; of a band only the middle 96 %, so that one spike of a
// maximum does not flatten the curve. The reading under the pointer still gives the true edge.
function verticalDomain(chart, logarithmic) {
  const usable = (value) => known(value) && (!logarithmic || value > 0);
  const firm = [];
  const edges = [];
  for (const line of chart.lines) {
    firm.push(...line.y);
    if (line.low) edges.push(...line.low, ...line.high);
  }
  for (const line of chart.points) firm.push(...line.y, ...(line.low ?? []), ...(line.high ?? []));
  if (known(chart.reference)) firm.push(chart.reference);
  const sorted = edges.filter(usable).sort((a, b) => a - b);
  if (sorted.length > 0) firm.push(quantile(sorted, 0.02), quantile(sorted, 0.98));
  const range = extent(firm.filter(usable)) ?? [logarithmic ? 0.1 : 0, 1];
  return padded(range, chart.format, logarithmic);
}

function padded([low, high], kind, logarithmic) {
  if (logarithmic) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  if (kind === "percent") {
    const top = high <= 0 ? 0.01 : high * 1.06;
    return [Math.min(0, low), high > 0.9 && high <= 1 ? 1.02 : top];
  }
  const margin = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low >= 0 && low - margin < 0 ? 0 : low - margin, high + margin];
}

function scaler([low, high], [from, to], logarithmic) {
  const f = logarithmic ? Math.log : (value) => value;
  const span = f(high) - f(low) || 1;
  return (value) => from + ((f(value) - f(low)) / span) * (to - from);
}

// Exponential moving average, corrected for its start at zero; gaps stay gaps.
function smoothed(values, weight) {
  if (weight === 0) return values;
  let [average, mass] = [0, 0];
  return values.map((value) => {
    if (!known(value)) return null;
    average = weight * average + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return average / mass;
  });
}

function nearest(xs, target) {
  let best = -1;
  for (let index = 0; index < xs.length; index += 1) {
    if (!known(xs[index])) continue;
    if (best < 0 || Math.abs(xs[index] - target) < Math.abs(xs[best] - target)) best = index;
  }
  return best;
}
