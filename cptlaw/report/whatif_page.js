// The what-if section itself: sliders to a question, and what the engine says of it as words, a table and curves.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("what-if-data").textContent);
  const models = data.fits.map((spec) => model(spec, LAWS));
  const { corpora, trade } = data;
  const several = corpora.length > 2;
  const sliders = new Map(data.sliders.map((slider) => [slider.name, slider]));
  const element = (name) => document.getElementById(`wi-${name}`);
  const POINTS = 61;
  const QUIET = 500; // ms without a move before the answer is read out
  let decided = { about: "" };
  let shares = several ? data.shares.slice() : null;

  // Numbers in words, as cptlaw.words has them.
  const round = (value, digits) => String(Number(value.toPrecision(digits)));
  const count = (value) => {
    for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]])
      if (value >= 0.9995 * size) return round(value / size, 3) + unit;
    return round(value, 3);
  };
  const percent = (share) => {
    const digits = share > 0 && share < 1 && 100 * Math.min(share, 1 - share) < 10 ? 1 : 0;
    return (100 * share).toFixed(digits).replace(/\.0$/, "") + "%";
  };
  const finely = (share) => `${(100 * share).toFixed(1).replace(/\.0$/, "")}%`;
  const nats = (value) => value.toFixed(3);
  const span = (low, high) => (Number.isFinite(low) ? `${nats(low)} to ${nats(high)}` : "unknown");

  /** The question that the sliders ask: name -> value. */
  function asked() {
    const out = { level: element("level").value };
    for (const [name, slider] of sliders) {
      const input = element(name);
      out[name] = slider.values[input ? Number(input.value) : slider.start];
    }
    return out;
  }

  /** Columns of a fit at a question, with the mix as its law reads it. */
  function columns(i, question) {
    const fit = data.fits[i];
    const mix = several ? question.shares ?? shares : [question.share, 1 - question.share];
    const out = { ...fit.absent, ...question };
    corpora.forEach((name, k) => (out[`w_${name}`] = corpora.length > 1 ? mix[k] : question.share ?? 1));
    const own = corpora.indexOf(fit.name);
    out.ratio = own < 0 ? NaN : out[`w_${fit.name}`];
    // A share that never moved is where it was.
    for (const name of fit.columns)
      if ((name === "ratio" || name.startsWith("w_")) && Number.isNaN(Number(out[name]))) out[name] = fit.ranges[name][1];
    return out;
  }

  /** A question with one slider, or one share of several, at another value. */
  function moved(question, name, value) {
    if (!several || !name.startsWith("w_")) return { ...question, [name]: value };
    return { ...question, shares: giveWay(shares, corpora.indexOf(name.slice(2)), value) };
  }

  /** Shares of several corpora when one is set: the others keep their proportions. */
  function giveWay(from, place, value) {
    const rest = 1 - from[place];
    return from.map((share, k) =>
      k === place ? value : (1 - value) * (rest > 1e-12 ? share / rest : 1 / (from.length - 1)));
  }

  function limitAt(question) {
    const base = baseLoss(trade.base, question.params);
    return {
      base, value: (1 + question.tolerance) * base.value,
      error: (1 + question.tolerance) * trade.error, moves: trade.moves,
    };
  }

  // ---- words and table

  function settle(question) {
    const losses = models.map((one, i) => one.loss(columns(i, question), question.level));
    const state = { question, losses };
    if (trade) {
      const limit = limitAt(question);
      const at = (i, share) => columns(i, { ...question, share });
      const holds = (share) => models[0].holds(at(0, share), limit);
      // The recommended share does not hang on the slider of the share, and is most of the work.
      const about = JSON.stringify({ ...question, share: null, level: null });
      if (decided.about !== about)
        decided = { about, ...tradeOff(
          (share) => models[0].point(at(0, share)), (share) => models[1].point(at(1, share)), holds, limit.value,
          trade.tried, question.confidence) };
      return { ...state, limit, holds: holds(question.share), found: decided };
    }
    return state;
  }

  function answer({ question, losses, limit, holds, found }) {
    const level = percent(Number(question.level));
    const parts = data.fits.map((fit, i) =>
      `${fit.name} loss ${nats(losses[i].point)} (${span(losses[i].low, losses[i].high)})`);
    if (!trade) return `${parts.join(", ")}; intervals of ${level}.`;
    const [general, domain] = data.fits.map((fit) => fit.name);
    const rise = losses[0].point / limit.base.value - 1;
    const words = [
      `At ${percent(question.share)} ${domain} text: ${parts.join(", ")}. The ${general} loss is ` +
      `${(rise >= 0 ? "+" : "") + (100 * rise).toFixed(1)}% from the base model's ${nats(limit.base.value)}; ` +
      `it stays under the ceiling, ${nats(limit.value)}, with a probability of ${chance(holds)}.`,
    ];
    if (Number.isNaN(found.estimate))
      words.push(
        `No share of the fitted runs meets the ceiling: the smallest predicted ${general} loss is ` +
        `${nats(found.least)}, at ${finely(found.lowest)} ${domain} text.`);
    else if (found.sure < question.confidence)
      words.push(
        `No share keeps the ceiling with ${chance(question.confidence)}: the surest is ${finely(found.safe)}, ` +
        `with ${chance(found.sure)}. The prediction itself meets it up to ${finely(found.estimate)}.`);
    else
      words.push(
        `Safe share: ${finely(found.safe)} ${domain} text keeps the ceiling with ${chance(found.sure)}. ` +
        `The prediction itself puts the best share at ${finely(found.estimate)}.`);
    return words.join(" ");
  }

  const chance = (value) => (Number.isNaN(value) ? "an unknown probability" :
    value > 0.995 ? "over 99%" : value < 0.005 ? "under 1%" : `${Math.round(100 * value)}%`);

  function make(name, attributes = {}, ...children) {
    const out = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) out.setAttribute(key, value);
    out.append(...children);
    return out;
  }

  function table({ question, losses }) {
    const level = percent(Number(question.level));
    const runs = losses.some((loss) => "runLow" in loss);
    const header = ["Nats per token", "predicted", `${level} interval of the ${runs ? "mean of runs" : "law's mean"}`, ...(runs ? ["of one new run"] : [])];
    const rows = data.fits.map((fit, i) => [
      `${fit.name} loss`, nats(losses[i].point), span(losses[i].low, losses[i].high),
      ...(runs ? ["runLow" in losses[i] ? span(losses[i].runLow, losses[i].runHigh) : ""] : []),
    ]);
    const head = make("tr", {}, ...header.map((word) => make("th", { scope: "col" }, word)));
    const body = rows.map((row) => make("tr", {}, ...row.map((cell, k) => make("td", { "data-label": header[k] }, cell))));
    return make("div", { class: "scroll cards" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  const labelOf = (name) => sliders.get(name)?.label ?? name.replace(/^w_/, "Share of ");

  /** What stands against believing it, each once. */
  function notes({ question, limit }) {
    const out = new Set();
    data.fits.forEach((fit, i) => {
      const x = columns(i, question);
      for (const name of fit.columns) {
        const [low, high] = fit.ranges[name] ?? [-Infinity, Infinity];
        const counted = name === "params" || name === "tokens";
        const shown = counted ? count : name === "ratio" || name.startsWith("w_") ? percent : (v) => round(v, 4);
        if (x[name] > high + 1e-9 * Math.abs(high) || x[name] < low - 1e-9 * Math.abs(low)) {
          const far = counted ? Math.max(x[name] / high, low / x[name]) : 0;
          if (shown(x[name]) === shown(high) || shown(x[name]) === shown(low)) continue;
          const word = name === "ratio" ? `Share of ${fit.name}` : labelOf(name);
          const doubt = far > data.checked ? `, ${round(far, 2)} times beyond; intervals were checked up to ${data.checked}` : "";
          out.add(`${word} ${shown(x[name])} is outside the fitted ${shown(low)} to ${shown(high)}${doubt}`);
        }
      }
      if (models[i].silent(x)) out.add(`These runs say nothing of the ${fit.name} loss there, so it has no interval`);
    });
    if (trade && limit.base.how !== "measured" && !trade.rebased)
      out.add({
        between: "The base model's loss at this size is read between two measured sizes",
        beyond: "The base model's loss at this size is carried on from the measured sizes: measure it",
        elsewhere: "The base model's loss was measured at one size only, and is taken as it is",
      }[limit.base.how]);
    return [...out].map((note) => make("li", {}, `${note}.`));
  }

  // ---- curves

  const SVG = "http://www.w3.org/2000/svg";
  function draw(name, attributes, parent, words) {
    const out = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) out.setAttribute(key, value);
    if (words !== undefined) out.textContent = words;
    parent.append(out);
    return out;
  }

  function ticks(low, high, log, most) {
    if (!log) {
      const raw = (high - low) / most, ten = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 2.5, 5, 10].map((k) => k * ten).find((k) => k >= raw);
      const out = [];
      for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push(k * step);
      return out;
    }
    for (const digits of [[1, 2, 5], [1, 3], [1]]) {
      const out = [];
      for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++)
        for (const digit of digits) if (digit * 10 ** k >= low && digit * 10 ** k <= high) out.push(digit * 10 ** k);
      if (out.length <= most + 1) return out;
    }
    return [low, high];
  }

  /** Values along an axis; those of shares are denser at both ends, where laws bend. */
  const spread = (low, high, log, bent = false) => Array.from({ length: POINTS }, (_, k) => {
    const part = bent ? (1 - Math.cos((Math.PI * k) / (POINTS - 1))) / 2 : k / (POINTS - 1);
    return log ? low * (high / low) ** part : low + (high - low) * part;
  });

  /**
   * One chart. `lines`: {points: [[x, y]], colour, aside}, those aside being dashed and without a say in the axes; `bands`: {points: [[x, low, high]], colour};
   * `levels` and `places`: lines across and up, {at, words}; `dots`: {x, y, colour, words, across, up}, the last two
   * their intervals.
   */
  function chart({ title, alt, across, up, lines, bands = [], levels = [], places = [], dots = [], log = false, y = null, flat = false, show }) {
    const holder = make("div", { class: "chart" });
    element("charts").append(holder);
    const width = Math.max(holder.clientWidth, 260), height = Math.round(Math.min(320, 0.72 * width));
    const left = 52, right = width - 22, top = 14, bottom = height - 42;
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${alt}` }, holder);
    holder.prepend(make("h3", {}, title));
    const finite = (values) => values.filter(Number.isFinite);
    const xs = finite(lines.flatMap((line) => (line.aside && flat ? [] : line.points.map((p) => p[0]))).concat(places.map((p) => p.at)));
    const ys = finite(lines.flatMap((line) => (line.aside ? [] : line.points.map((p) => p[1]))).concat(dots.map((d) => d.y), levels.map((l) => l.at)));
    if (!xs.length || !ys.length) return;
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    if (x0 === x1) [x0, x1] = [x0 - 0.01 * Math.abs(x0), x1 + 0.01 * Math.abs(x1)];
    let [y0, y1] = y ?? [Math.min(...ys), Math.max(...ys)];
    if (!y) {
      // A band may widen the axis, but not so far that the curve is pressed flat.
      const room = 0.6 * Math.max(y1 - y0, 1e-3 * Math.abs(y1));
      const ends = finite(bands.flatMap((band) => band.points.flatMap((p) => [p[1], p[2]])));
      [y0, y1] = [Math.max(Math.min(y0, ...ends), y0 - room), Math.min(Math.max(y1, ...ends), y1 + room)];
      [y0, y1] = [y0 - 0.05 * (y1 - y0 || 1e-3), y1 + 0.1 * (y1 - y0 || 1e-3)];
    }
    const toX = (v) => left + (right - left) * (log ? Math.log(v / x0) / Math.log(x1 / x0) : (v - x0) / (x1 - x0));
    const toY = (v) => bottom - (bottom - top) * ((v - y0) / (y1 - y0));
    const clip = `wi-clip-${document.querySelectorAll(".chart").length}`;
    const box = draw("clipPath", { id: clip }, draw("defs", {}, picture));
    draw("rect", { x: left, y: top - 4, width: right - left, height: bottom - top + 8 }, box);
    for (const v of ticks(y0, y1, false, 5)) {
      draw("line", { x1: left, x2: right, y1: toY(v), y2: toY(v), class: "grid" }, picture);
      draw("text", { x: left - 6, y: toY(v) + 4, class: "tick end" }, picture, up.show(v));
    }
    for (const v of ticks(x0, x1, log, width < 420 ? 4 : 6))
      draw("text", { x: toX(v), y: bottom + 16, class: "tick middle" }, picture, show(v));
    draw("text", { x: right, y: height - 8, class: "axis end" }, picture, across);
    draw("text", { x: 2, y: 9, class: "axis" }, picture, up.label);
    const inner = draw("g", { "clip-path": `url(#${clip})` }, picture);
    for (const band of bands) {
      const good = band.points.filter((p) => Number.isFinite(p[1]) && Number.isFinite(p[2]));
      if (!good.length) continue;
      const edge = [...good.map((p) => [p[0], p[2]]), ...good.reverse().map((p) => [p[0], p[1]])];
      draw("polygon", { points: path(edge, toX, toY), fill: `var(--${band.colour})`, opacity: 0.22 }, inner);
    }
    for (const { at, words } of levels) {
      draw("line", { x1: left, x2: right, y1: toY(at), y2: toY(at), class: "mark" }, inner);
      draw("text", { x: right - 4, y: toY(at) - 4, class: "tick end" }, inner, words);
    }
    for (const { at, words } of places) {
      draw("line", { x1: toX(at), x2: toX(at), y1: top - 4, y2: bottom, class: "mark" }, inner);
      const late = toX(at) > right - 90;
      draw("text", { x: toX(at) + (late ? -4 : 4), y: top + 8, class: `tick${late ? " end" : ""}` }, inner, words);
    }
    for (const line of lines)
      draw("polyline", {
        points: path(line.points.filter((p) => Number.isFinite(p[0]) && Number.isFinite(p[1])), toX, toY), fill: "none",
        stroke: `var(--${line.colour})`, "stroke-width": 2, ...(line.aside ? { "stroke-dasharray": "3 4" } : {}),
      }, inner);
    for (const dot of dots) {
      if (!Number.isFinite(dot.x) || !Number.isFinite(dot.y)) continue;
      const stroke = { stroke: `var(--${dot.colour})`, "stroke-width": 1.6 };
      if (dot.up) draw("line", { x1: toX(dot.x), x2: toX(dot.x), y1: toY(dot.up[0]), y2: toY(dot.up[1]), ...stroke }, inner);
      if (dot.across) draw("line", { y1: toY(dot.y), y2: toY(dot.y), x1: toX(dot.across[0]), x2: toX(dot.across[1]), ...stroke }, inner);
      draw("circle", { cx: toX(dot.x), cy: toY(dot.y), r: dot.small ? 3 : 5.5, fill: `var(--${dot.small ? "paper" : dot.colour})`, ...stroke }, inner);
      const late = toX(dot.x) > right - 90;
      if (dot.words)
        draw("text", { x: toX(dot.x) + (late ? -9 : 9), y: toY(dot.y) + (dot.below ? 16 : -7), class: `tick${late ? " end" : ""}` }, inner, dot.words);
    }
  }

  const path = (points, toX, toY) => points.map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join(" ");

  /** How the axis of a column reads. */
  function axis(name) {
    const shown = name === "share" || name.startsWith("w_") ? percent :
      name === "params" || name.includes("tokens") ? count : (v) => round(v, 3);
    const slider = sliders.get(name);
    return { shown, log: slider?.log ?? false, label: slider?.label ?? `Share of ${name.slice(2)} text` };
  }

  function decimals(value) {
    return Math.abs(value) < 100 ? value.toFixed(2).replace(/(\.\d)0$/, "$1") : round(value, 3);
  }

  function curves(state) {
    const { question, losses, limit, found } = state;
    const along = element("along")?.value;
    if (!along) return;
    const { shown, log, label } = axis(along);
    const values = sliders.get(along)?.values ?? [0, 1];
    const share = along === "share" || along.startsWith("w_");
    const at = spread(values[0], values.at(-1), log, share);
    const here = several && along.startsWith("w_") ? shares[corpora.indexOf(along.slice(2))] : question[along];
    if (trade) front(state);
    data.fits.forEach((fit, i) => {
      const line = at.map((v) => models[i].loss(columns(i, moved(question, along, v)), question.level));
      const colour = `size${i % 5}`;
      chart({
        title: `${fit.name} loss`, across: label, show: shown, log, up: { label: "nats per token", show: decimals },
        alt: `From ${nats(line[0].point)} at ${shown(at[0])} to ${nats(line.at(-1).point)} at ${shown(at.at(-1))}; ` +
          `${nats(losses[i].point)} at ${shown(here)}.`,
        lines: [
          { points: at.map((v, k) => [v, line[k].point]), colour, aside: true },
          { points: at.map((v, k) => [v, line[k].point]).filter(([v]) => fitted(i, along, v)), colour },
        ],
        bands: [{ points: at.map((v, k) => [v, line[k].low, line[k].high]), colour }],
        levels: trade && i === 0 && along !== "params" ? [{ at: limit.value, words: "ceiling" }] : [],
        dots: [{ x: here, y: losses[i].point, colour, up: [losses[i].low, losses[i].high], words: shown(here) }],
      });
    });
    if (!trade) return;
    const held = spread(0, 1, false);
    const chances = held.map((share) => models[0].holds(columns(0, { ...question, share }), limit));
    chart({
      title: "Probability that the ceiling holds", across: axis("share").label, show: percent, y: [0, 1.03],
      up: { label: "probability", show: percent },
      alt: `${chance(chances[0])} at 0%, ${chance(state.holds)} at ${percent(question.share)}, ${chance(chances.at(-1))} at 100%.`,
      lines: [{ points: held.map((v, k) => [v, chances[k]]), colour: "ink" }],
      levels: [{ at: question.confidence, words: `wanted, ${percent(question.confidence)}` }],
      places: Number.isFinite(found.safe) ? [{ at: found.safe, words: `safe, ${finely(found.safe)}` }] : [],
      dots: [{ x: question.share, y: state.holds, colour: "accent", words: percent(question.share) }],
    });
  }

  /** Whether the fitted rows reach a value of the column that a curve is along. */
  function fitted(i, along, value) {
    if (along === "share") return value >= data.fitted[0] - 1e-9 && value <= data.fitted[1] + 1e-9;
    const [low, high] = data.fits[i].ranges[along] ?? [-Infinity, Infinity];
    return value >= low * (1 - 1e-6) && value <= high * (1 + 1e-6);
  }

  function front({ question, losses, limit, found }) {
    const [general, domain] = data.fits.map((fit) => fit.name);
    const both = (share) => models.map((one, i) => one.point(columns(i, { ...question, share })));
    const [low, high] = trade.tried;
    const whole = spread(0, 1, false, true).map(both), tried = spread(low, high, false, true).map(both);
    const marks = [0, 0.25, 0.5, 0.75, 1].filter((share) => share >= low && share <= high).map((share) => [share, both(share)]);
    const safe = Number.isFinite(found.safe) ? both(found.safe) : null;
    const close = Math.abs(found.safe - question.share) < 0.04;
    const taken = (share) => [question.share, found.safe].some((other) => Math.abs(share - other) < 0.08);
    chart({
      title: `What ${domain} text buys, and what it costs`, across: `${general} loss (nats per token)`,
      up: { label: `${domain} loss`, show: decimals }, show: decimals,
      alt: `Curve of ${domain} against ${general} loss along the share. At ${percent(question.share)} they are ` +
        `${nats(losses[1].point)} and ${nats(losses[0].point)}; the ceiling on ${general} is ${nats(limit.value)}.`,
      flat: true,
      lines: [{ points: whole, colour: "muted", aside: true }, { points: tried, colour: "ink" }],
      places: [{ at: limit.value, words: "ceiling" }],
      dots: [
        ...marks.map(([share, [x, y]]) => ({ x, y, colour: "ink", small: true, words: taken(share) ? "" : percent(share) })),
        ...(safe ? [{ x: safe[0], y: safe[1], colour: "good", words: close ? "" : `safe, ${finely(found.safe)}`, below: true }] : []),
        {
          x: losses[0].point, y: losses[1].point, colour: "accent", words: percent(question.share),
          across: [losses[0].low, losses[0].high], up: [losses[1].low, losses[1].high],
        },
      ],
    });
  }

  // ---- the page

  let state, waiting, said;
  function show() {
    waiting = undefined;
    const question = asked();
    for (const [name, slider] of sliders) {
      const input = element(name);
      if (!input) continue;
      const words = slider.words[Number(input.value)];
      element(`${name}-value`).textContent = words;
      input.setAttribute("aria-valuetext", words);
    }
    if (several)
      shares.forEach((share, k) => {
        const input = element(`part-${k}`);
        input.value = share;
        element(`part-${k}-value`).textContent = percent(share);
        input.setAttribute("aria-valuetext", percent(share));
      });
    state = settle(question);
    element("losses").replaceChildren(table(state));
    element("notes").replaceChildren(...notes(state));
    element("charts").replaceChildren();
    curves(state);
    if (trade) element("safe").disabled = Number.isNaN(state.found.safe);
    // Read out when the slider rests, not at each of its steps.
    clearTimeout(said);
    said = setTimeout(() => (element("answer").textContent = answer(state)), element("answer").textContent ? QUIET : 0);
  }

  /** A slider moves faster than curves are drawn: once for all moves since the last drawing. */
  function soon() {
    waiting ??= setTimeout(show, 0);
  }

  function place(name, value) {
    const values = sliders.get(name).values;
    let best = 0;
    values.forEach((v, k) => { if (Math.abs(v - value) < Math.abs(values[best] - value)) best = k; });
    element(name).value = best;
  }

  const form = document.querySelector("#what-if form");
  form.addEventListener("input", (event) => {
    const part = /^wi-part-(\d+)$/.exec(event.target.id);
    if (part) shares = giveWay(shares, Number(part[1]), Number(event.target.value));
    soon();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  element("reset").addEventListener("click", () => {
    form.reset();
    shares = several ? data.shares.slice() : null;
    soon();
  });
  element("safe")?.addEventListener("click", () => {
    place("share", state.found.safe);
    soon();
  });
  const section = document.getElementById("what-if");
  section.hidden = false;
  try {
    show();
  } catch (error) {
    section.hidden = true;
    throw error;
  }
  let wide = section.clientWidth;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - wide) < 1) return;
    wide = entry.contentRect.width;
    soon();
  }).observe(section);
})();
