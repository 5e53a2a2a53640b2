// Losses, intervals and shares of a what-if page: the arithmetic of cptlaw.fitting.process and cptlaw.planning.tradeoff
// on what cptlaw.report.whatif wrote. No page is known here; the tests run this file alone.
"use strict";

const STEP = 1e-5; // of the law's slopes, as in process.slopes
const LEAST_VARIANCE = 1e-16;
const SILENT = 10; // times beyond the fitted rows, where nothing is said
const SAFE_POINTS = 361; // shares among which the surer one is looked for
const JITTERS = [0, 1e-12, 1e-10, 1e-8, 1e-6];
const LIMIT_POINTS = 81; // of the integral over a base loss that is not known exactly

/** Doubles from the base64 text of their bytes (little-endian). */
function numbers(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

/** numpy.quantile of sorted values. */
function quantile(sorted, at) {
  const place = at * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

function logGamma(x) {
  // Stirling's series where it is exact to a double, reached by the recurrence.
  let shift = 0;
  while (x < 15) shift -= Math.log(x++);
  const i = 1 / (x * x);
  const series = (1 / 12 - i * (1 / 360 - i * (1 / 1260 - i * (1 / 1680 - i / 1188)))) / x;
  return shift + (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series;
}

/** Regularised incomplete beta function, by its continued fraction (Lentz). */
function incompleteBeta(a, b, x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
  const front = Math.exp(
    logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
  let c = 1;
  let d = 1 / (1 - ((a + b) * x) / (a + 1));
  let found = d;
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + even * d);
    c = 1 + even / c;
    found *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + odd * d);
    c = 1 + odd / c;
    found *= d * c;
    if (Math.abs(d * c - 1) < 1e-15) break;
  }
  return front * found;
}

/** Probability that Student's t with `df` degrees of freedom is at most `t`. */
function studentBelow(t, df) {
  const tail = 0.5 * incompleteBeta(df / 2, 0.5, df / (df + t * t));
  return t > 0 ? 1 - tail : tail;
}

/** Lower Cholesky factor of a symmetric (n, n) matrix, row by row; null where rounding left it not positive. */
function cholesky(matrix, n, added) {
  const root = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j] + (i === j ? added : 0);
      for (let k = 0; k < j; k++) sum -= root[i * n + k] * root[j * n + k];
      if (i === j) {
        if (!(sum > 0)) return null;
        root[i * n + i] = Math.sqrt(sum);
      } else root[i * n + j] = sum / root[j * n + j];
    }
  }
  return root;
}

const matern52 = (distance) => {
  const scaled = Math.sqrt(5) * distance;
  return (1 + scaled + (scaled * scaled) / 3) * Math.exp(-scaled);
};
const matern32 = (distance) => {
  const scaled = Math.sqrt(3) * distance;
  return (1 + scaled) * Math.exp(-scaled);
};

/** A law conditioned on its rows: cptlaw.fitting.process.Process. */
class Process {
  constructor(spec, laws) {
    Object.assign(this, spec);
    this.law = laws[spec.law];
    for (const name of ["slopes", "solved", "noise"]) this[name] = numbers(spec[name]);
    this.axes = Object.fromEntries(Object.entries(spec.axes).map(([name, text]) => [name, numbers(text)]));
    this.count = this.solved.length;
    const names = Object.keys(this.axes);
    this.sizes = names.map((name) => this.axes[name].length / this.count);
    this.terms = spec.terms.map(({ scale, axes, domain }) => ({
      variance: scale ** 2, of: axes.map((name) => names.indexOf(name)), domain,
    }));
  }

  /** Log loss of the law at phi; NaN where the law is not positive. */
  lawLog(phi, x) {
    const p = this.parameters.slice();
    for (let i = 0; i < phi.length; i++) p[this.places[i]] = this.logged[i] ? Math.exp(phi[i]) : phi[i];
    const value = this.law(p, x);
    return value > 0 ? Math.log(value) : NaN;
  }

  /** Covariance of the smooth misses of every row with a point, whose coordinates are of each axis. */
  misses(point, domain) {
    const along = Object.entries(this.axes).map(([name, values], axis) => {
      const size = this.sizes[axis], at = point[axis], length = this.lengths[name], out = new Float64Array(this.count);
      for (let row = 0; row < this.count; row++) {
        let square = 0;
        for (let k = 0; k < size; k++) square += (at[k] - values[row * size + k]) ** 2;
        out[row] = matern52(Math.sqrt(square) / length);
      }
      return out;
    });
    const sum = new Float64Array(this.count);
    for (const term of this.terms) {
      const [first, second] = term.of.map((axis) => along[axis]);
      for (let row = 0; row < this.count; row++) {
        if (term.domain && this.domains[row] !== domain) continue;
        sum[row] += term.variance * (first ? first[row] : 1) * (second ? second[row] : 1);
      }
    }
    return sum;
  }

  /** Coordinates of a question, of each axis: logarithms. */
  place(x) {
    return Object.keys(this.axes).map((axis) => {
      if (axis === "size") return [Math.log(x.params)];
      if (axis === "tokens") return [Math.log(x.tokens)];
      const shares = this.shares.length ? this.shares.map((name) => x[name]) : [x.ratio, 1 - x.ratio];
      return shares.map((share) => Math.log(share + this.offset));
    });
  }

  /** Lower Cholesky factor of the covariance of the rows; made once. */
  get root() {
    if (this.made) return this.made;
    const n = this.count, width = this.phi.length, matrix = new Float64Array(n * n);
    let mean = 0;
    for (let i = 0; i < n; i++) {
      const place = Object.values(this.axes).map((values, axis) =>
        values.subarray(i * this.sizes[axis], (i + 1) * this.sizes[axis]));
      const smooth = this.misses(place, this.domains[i]);
      for (let j = 0; j <= i; j++) {
        let sum = smooth[j];
        for (let k = 0; k < width; k++) sum += this.slopes[i * width + k] * this.slopes[j * width + k];
        if (this.bases[i] === this.bases[j]) sum += this.base ** 2;
        if (this.runs[i] === this.runs[j]) {
          sum += this.run ** 2;
          const apart = "tokens" in this.axes ? Math.abs(this.axes.tokens[i] - this.axes.tokens[j]) : 0;
          sum += this.drift ** 2 * ("tokens" in this.axes ? matern32(apart / this.lengths.drift) : 1);
        }
        if (i === j) mean += (sum += this.checkpoint ** 2 * this.noise[i]) / n;
        matrix[i * n + j] = sum;
      }
    }
    for (const jitter of JITTERS) if ((this.made = cholesky(matrix, n, jitter * mean))) return this.made;
    throw new Error("the covariance of the rows has no root");
  }

  /** The table's base model of this size, where it has one alone; -1 elsewhere. */
  baseAt(x) {
    const found = this.baseOf.find(([size]) => size === null || Math.abs(x.params - size) <= 1e-8 + 1e-9 * size);
    return found ? found[1] : -1;
  }

  /** Whether these rows say nothing at x. */
  silent(x) {
    const far = Object.entries(this.reach).some(([name, [low, high]]) => Math.max(x[name] / high, low / x[name]) > SILENT);
    return far || (this.dropped && x.ratio === 0);
  }

  /**
   * Log loss at the columns x: Student's t with `df` about `mean`, of scale `sd` for the mean of runs (the base of that
   * size included where the table has it), `sdRun` for one new run. `spread: false` leaves out the scales.
   */
  at(columns, spread = true) {
    const named = { ...columns, ...this.given };
    const x = this.columns.map((name) => named[name]);
    const width = this.phi.length, n = this.count;
    const slope = new Float64Array(width);
    for (let k = 0; k < width; k++) {
      const moved = this.phi.slice();
      moved[k] = this.phi[k] + STEP;
      const up = this.lawLog(moved, x);
      moved[k] = this.phi[k] - STEP;
      const found = (up - this.lawLog(moved, x)) / (2 * STEP);
      slope[k] = Number.isNaN(found) ? 0 : found;
    }
    const base = this.baseAt(named);
    const covariance = this.misses(this.place(named), this.asked);
    let mean = this.lawLog(this.phi, x);
    let own = 0;
    for (let k = 0; k < width; k++) {
      mean += slope[k] * (this.centre[k] - this.phi[k]);
      slope[k] *= this.spread[k];
      own += slope[k] ** 2;
    }
    for (let row = 0; row < n; row++) {
      let sum = covariance[row];
      for (let k = 0; k < width; k++) sum += slope[k] * this.slopes[row * width + k];
      if (base >= 0 && this.bases[row] === base) sum += this.base ** 2;
      covariance[row] = sum;
      mean += sum * this.solved[row];
    }
    if (!spread) return { mean };
    for (const term of this.terms) own += term.variance;
    if (base >= 0) own += this.base ** 2;
    const root = this.root;
    for (let i = 0; i < n; i++) {
      let sum = covariance[i];
      for (let k = 0; k < i; k++) sum -= root[i * n + k] * covariance[k];
      covariance[i] = sum / root[i * n + i];
      own -= covariance[i] ** 2;
    }
    const more = this.run ** 2 + this.drift ** 2 + this.checkpoint ** 2 + (base < 0 ? this.base ** 2 : 0);
    const scale = (variance) => Math.sqrt(Math.max(this.widened ** 2 * variance, LEAST_VARIANCE));
    return { mean, sd: scale(own), sdRun: scale(own + more) };
  }

  point(columns) {
    return Math.exp(this.at(columns, false).mean);
  }

  /** {point, low, high, runLow, runHigh} in nats; the bounds are NaN where nothing is said. */
  loss(columns, level) {
    const found = this.at(columns), half = this.halves[level];
    const bound = (by) => (this.silent({ ...columns, ...this.given }) ? NaN : Math.exp(found.mean + by));
    return {
      point: Math.exp(found.mean),
      low: bound(-half * found.sd), high: bound(half * found.sd),
      runLow: bound(-half * found.sdRun), runHigh: bound(half * found.sdRun),
    };
  }

  /** Probability that the loss of the mean run is at most a limit that is itself known to a standard error. */
  holds(columns, limit) {
    const found = this.at(columns);
    const below = (value) => studentBelow((Math.log(value) - found.mean) / found.sd, this.df);
    if (!limit.error) return below(limit.value);
    let sum = 0, weights = 0;
    for (let i = 0; i < LIMIT_POINTS; i++) {
      const z = -8 + (16 * i) / (LIMIT_POINTS - 1), weight = Math.exp((-z * z) / 2);
      sum += weight * below(Math.max(limit.value + z * limit.error, 1e-300));
      weights += weight;
    }
    return sum / weights;
  }
}

/** A law alone with its bootstrap, as if it were true. */
class Alone {
  constructor(spec, laws) {
    Object.assign(this, spec);
    this.law = laws[spec.law];
    this.samples = numbers(spec.samples); // (S, parameters)
    this.width = spec.parameters.length;
    this.draws = this.samples.length / this.width;
  }

  point(columns) {
    return this.law(this.parameters, this.columns.map((name) => columns[name]));
  }

  /** Loss of every resample. */
  drawn(columns) {
    const x = this.columns.map((name) => columns[name]);
    return Float64Array.from({ length: this.draws }, (_, i) =>
      this.law(this.samples.subarray(i * this.width, (i + 1) * this.width), x));
  }

  loss(columns, level) {
    const sorted = this.drawn(columns).filter((value) => !Number.isNaN(value)).sort();
    const wide = this.wider[level];
    const [low, high] = sorted.length
      ? [quantile(sorted, (1 - wide) / 2), quantile(sorted, (1 + wide) / 2)] : [NaN, NaN];
    return { point: this.point(columns), low, high };
  }

  silent() {
    return false;
  }

  holds(columns, limit) {
    const drawn = this.drawn(columns);
    let met = 0;
    for (let i = 0; i < drawn.length; i++) {
      if (drawn[i] <= limit.value + (limit.error ? limit.error * limit.moves[i] : 0)) met++;
    }
    return drawn.length ? met / drawn.length : NaN;
  }
}

const model = (spec, laws) => (spec.kind === "process" ? new Process(spec, laws) : new Alone(spec, laws));

/** Argument in [low, high] of the least value, by a grid and four zooms: planning.numbers.minimise. */
function minimise(value, low, high, grid = 201, zoom = 41) {
  let points = Array.from({ length: grid }, (_, i) => low + ((high - low) * i) / (grid - 1));
  let half = (high - low) / (grid - 1), best = NaN;
  for (let stage = 0; stage < 5; stage++) {
    const found = points.map(value);
    let at = 0;
    for (let i = 1; i < found.length; i++) if (found[i] < found[at]) at = i;
    if (stage === 0 && !Number.isFinite(found[at])) return NaN;
    best = points[at];
    points = Array.from({ length: zoom }, (_, i) =>
      Math.min(Math.max(best + half * (-1 + (2 * i) / (zoom - 1)), low), high));
    half /= (zoom - 1) / 2;
  }
  return best;
}

/**
 * What planning.tradeoff recommends, from three functions of the share: the general and the domain loss, and the
 * probability that the limit holds. `estimate`: the share with the least domain loss whose predicted general loss
 * meets the limit (NaN: none does); `lowest`: that of the least general loss, which is `least`; `safe`: the largest
 * share up to the estimate at which the limit holds with `confidence`, or the surest; `sure`: the probability there.
 */
function tradeOff(general, domain, holds, limit, [low, high], confidence) {
  const once = (of) => {
    const known = new Map();
    return (share) => (known.has(share) || known.set(share, of(share)), known.get(share));
  };
  const generalAt = once(general), domainAt = once(domain);
  const lowest = minimise(generalAt, low, high), least = generalAt(lowest);
  let estimate = minimise((share) => (generalAt(share) <= limit ? domainAt(share) : Infinity), low, high);
  if (Number.isNaN(estimate) && least <= limit) estimate = lowest;
  if (Number.isNaN(estimate)) return { estimate, lowest, least, safe: NaN, sure: NaN };
  let safe = NaN, sure = -1;
  for (let i = SAFE_POINTS - 1; i >= 0 && sure < confidence; i--) {
    const share = low + ((estimate - low) * i) / (SAFE_POINTS - 1), found = holds(share);
    if (found >= sure) [safe, sure] = [share, found];
    if (estimate === low) break;
  }
  return { estimate, lowest, least, safe, sure };
}

/**
 * The base model's loss at a size, from [[size, loss], ...]: as measured, read between two measured sizes on a line in
 * the logarithms, or carried on beyond them; `how` says which.
 */
function baseLoss(known, params) {
  const sorted = [...known].sort((a, b) => a[0] - b[0]);
  const same = sorted.find(([size]) => Math.abs(params / size - 1) < 1e-6);
  if (same) return { value: same[1], how: "measured" };
  if (sorted.length === 1) return { value: sorted[0][1], how: "elsewhere" };
  let i = sorted.findIndex(([size]) => size > params);
  const inside = i > 0;
  i = i < 0 ? sorted.length - 1 : Math.max(i, 1);
  const [[n0, l0], [n1, l1]] = [sorted[i - 1], sorted[i]];
  const part = Math.log(params / n0) / Math.log(n1 / n0);
  return { value: Math.exp(Math.log(l0) + part * Math.log(l1 / l0)), how: inside ? "between" : "beyond" };
}
