// The page: its state is `S`, of which everything shown is a function; it stands in the URL too.

const $ = (id) => document.getElementById(id);
const LIMIT = 2000;
const NOISE = { name: "noise", symbol: "noise σ", low: 0.01, high: 30, default: 0, is_log: true };
const dark = matchMedia("(prefers-color-scheme: dark)");
let S, runs = {}, playing = false, view, background;

// State

const fresh = (landscape) => ({
  landscape, parameters: LANDSCAPES[landscape].sliders.map((s) => s.default),
  start: LANDSCAPES[landscape].start.slice(), methods: ["momentum", "adam", "lbfgs"],
  focus: "momentum", numbers: {}, decay: "constant", decayNumbers: [], noise: 0, seed: 1, t: 0,
});
const defaultOf = (method, slider) => {
  if (slider.name !== "learning_rate") return slider.default;
  const { rates, rescaled, sliders } = LANDSCAPES[S.landscape];
  if (!rescaled.includes(method) || S.parameters[0] === sliders[0].default) return rates[method];
  return Number(((rates[method] * (1 + sliders[0].default)) / (1 + S.parameters[0])).toPrecision(3));
};
const numberOf = (method, slider) =>
  S.numbers[`${method}.${slider.name}`] ?? defaultOf(method, slider);

const toHash = () => {
  const landscape = LANDSCAPES[S.landscape], parts = [`l=${S.landscape}`];
  const short = (x) => String(Number(x.toPrecision(6)));
  landscape.sliders.forEach((s, i) => {
    if (S.parameters[i] !== s.default) parts.push(`${s.name}=${S.parameters[i]}`);
  });
  if (S.start.some((x, i) => x !== landscape.start[i])) parts.push(`x=${S.start.map(short)}`);
  parts.push(`m=${S.methods}`, `f=${S.focus}`);
  if (S.decay !== "constant") parts.push(`decay=${[S.decay, ...S.decayNumbers]}`);
  if (S.noise) parts.push(`noise=${S.noise}`);
  if (S.seed !== 1) parts.push(`seed=${S.seed}`);
  Object.entries(S.numbers).forEach(([key, x]) => {
    if (S.methods.includes(key.split(".")[0])) parts.push(`${key}=${x}`);
  });
  return `#${parts.join("&")}&t=${S.t}`;
};

// Whatever is missing or wrong in a link keeps its default.
const fromHash = (hash) => {
  const given = new URLSearchParams(hash.slice(1)), name = given.get("l");
  const number = (text, otherwise) =>
    text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : otherwise;
  S = fresh(Object.hasOwn(LANDSCAPES, name ?? "") ? name : "taco-shell");
  LANDSCAPES[S.landscape].sliders.forEach((s, i) => {
    S.parameters[i] = number(given.get(s.name), s.default);
  });
  const point = (given.get("x") ?? "").split(",").map(Number);
  if (point.length === 2 && point.every(Number.isFinite)) S.start = point;
  const methods = (given.get("m") ?? "").split(",").filter((m) => Object.hasOwn(METHODS, m));
  if (methods.length) S.methods = methods;
  S.focus = S.methods.includes(given.get("f")) ? given.get("f") : S.methods[0];
  const [decay, ...rest] = (given.get("decay") ?? "constant").split(",");
  if (Object.hasOwn(DECAYS, decay)) setDecay(decay, rest.map(Number));
  S.noise = Math.max(0, number(given.get("noise"), 0));
  S.seed = Math.trunc(number(given.get("seed"), 1));
  S.t = Math.min(LIMIT, Math.max(0, Math.trunc(number(given.get("t"), 0))));
  for (const [key, text] of given) {
    const [method, field] = key.split(".");
    const known = Object.hasOwn(METHODS, method) && METHODS[method].sliders.some((s) => s.name === field);
    if (known && Number.isFinite(Number(text))) S.numbers[key] = Number(text);
  }
};
const setDecay = (decay, numbers = []) => {
  S.decay = decay;
  S.decayNumbers = DECAYS[decay].sliders.map((s, i) =>
    (Number.isFinite(numbers[i]) ? numbers[i] : s.default));
};

const setupOf = (method) => ({
  landscape: S.landscape, parameters: S.parameters, method, start: S.start,
  numbers: Object.fromEntries(METHODS[method].sliders.map((s) => [s.name, numberOf(method, s)])),
  decay: S.decay, decayNumbers: S.decayNumbers, noise: S.noise, seed: S.seed,
});

// Runs: made anew whenever a setting changes, and as long as the page has stepped.
const compute = () => {
  for (const method of S.methods) {
    const run = (runs[method] ??= startRun(setupOf(method)));
    while (run.frames.length <= S.t && advance(run));
  }
};
const shownFrames = (method) => runs[method].frames.slice(0, S.t + 1);
const finished = () => S.t >= LIMIT || S.methods.every((m) => isOver(runs[m]) && runs[m].frames.length <= S.t + 1);
const colorOf = (method) => METHODS[method][dark.matches ? "dark" : "color"];

// Change the state with a function, and show it.
const change = (update, { settings = true, controls = false } = {}) => {
  update();
  if (settings) runs = {};
  compute();
  if (controls) showControls();
  show();
};

// Controls

const nice = (x) => {
  if (x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5)
    ? x.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e") : String(Number(x.toPrecision(4)));
  return text.replaceAll("-", "−");
};
const element = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const dot = (method) => {
  const node = element("span", { className: "dot" });
  node.style.background = colorOf(method);
  return node;
};

// A slider; a log one that may be zero has zero at its left end.
const sliderRow = (slider, value, set) => {
  const hasZero = slider.is_log && slider.default === 0;
  const toPosition = (x) => {
    if (!slider.is_log) return (x - slider.low) / (slider.high - slider.low);
    return x <= 0 ? 0 : Math.log(x / slider.low) / Math.log(slider.high / slider.low);
  };
  const toValue = (p) => {
    if (hasZero && p === 0) return 0;
    const x = slider.is_log ? slider.low * (slider.high / slider.low) ** p
      : slider.low + p * (slider.high - slider.low);
    return Number(x.toPrecision(slider.is_log ? 2 : 3));
  };
  const input = element("input", { type: "range", min: 0, max: 200, value: 200 * toPosition(value) });
  input.dataset.name = slider.name;
  const output = element("output", { textContent: nice(value) });
  input.setAttribute("aria-valuetext", nice(value));
  input.addEventListener("input", () => {
    const x = toValue(input.value / 200);
    output.textContent = nice(x);
    input.setAttribute("aria-valuetext", nice(x));
    change(() => set(x));
  });
  const name = slider.name === "learning_rate" ? "α (rate)" : slider.symbol;
  return element("label", { className: "row", title: slider.name.replaceAll("_", " ") },
    element("span", { textContent: name }), input, output);
};
const choice = (text, pressed, act, ...before) => {
  const button = element("button", { type: "button" }, ...before, text);
  button.setAttribute("aria-pressed", pressed);
  button.addEventListener("click", act);
  return button;
};
// Replace the buttons of a group, and keep the focus of the keyboard.
const setButtons = (parent, nodes) => {
  const at = [...parent.children].indexOf(document.activeElement);
  parent.replaceChildren(...nodes);
  if (at >= 0) parent.children[Math.min(at, nodes.length - 1)].focus();
};

const showControls = () => {
  setButtons($("landscapes"), Object.entries(LANDSCAPES).map(([name, landscape]) =>
    choice(landscape.title, name === S.landscape, () => change(() => {
      const kept = { methods: S.methods, focus: S.focus, decay: S.decay, decayNumbers: S.decayNumbers, seed: S.seed };
      S = Object.assign(fresh(name), kept);
    }, { controls: true }))));
  setButtons($("methods"), Object.keys(METHODS).map((name) =>
    choice(METHODS[name].title, S.methods.includes(name), () => change(() => {
      if (!S.methods.includes(name)) {
        S.methods = Object.keys(METHODS).filter((m) => m === name || S.methods.includes(m));
        S.focus = name;
      } else if (S.methods.length > 1) {
        S.methods = S.methods.filter((m) => m !== name);
        if (S.focus === name) S.focus = S.methods[0];
      }
    }, { settings: false, controls: true }), dot(name))));
  showFocus();
  $("decay").replaceChildren(...Object.entries(DECAYS).map(([name, { title }]) =>
    element("option", { value: name, textContent: title, selected: name === S.decay })));
  showDecay();
  const landscape = LANDSCAPES[S.landscape];
  $("parameters").replaceChildren(...landscape.sliders.map((s, i) =>
    sliderRow(s, S.parameters[i], (x) => {
      S.parameters[i] = x;
      showFocus(); // the tuned rates depend on it
    })));
  $("noise").replaceChildren(sliderRow(NOISE, S.noise, (x) => { S.noise = x; }));
};
const showDecay = () => $("decayNumbers").replaceChildren(...DECAYS[S.decay].sliders.map((s, i) =>
  sliderRow(s, S.decayNumbers[i], (x) => { S.decayNumbers[i] = x; })));
const showFocus = () => {
  const method = METHODS[S.focus];
  $("title").textContent = method.title;
  $("focus").querySelector(".dot").style.background = colorOf(S.focus);
  $("rule").textContent = method.rule;
  $("numbers").replaceChildren(...method.sliders.map((s) =>
    sliderRow(s, numberOf(S.focus, s), (x) => { S.numbers[`${S.focus}.${s.name}`] = x; })));
};

// What a step shows

const show = () => {
  showScore();
  drawMap();
  drawLoss();
  drawLens();
  $("count").textContent = S.t;
  $("play").textContent = playing ? "❚❚ Pause" : "▶ Play";
  saveSoon();
};

// The address follows the state, twice a second at most: browsers refuse more.
let saving = 0;
const save = () => {
  clearTimeout(saving);
  saving = 0;
  history.replaceState(null, "", toHash());
};
const saveSoon = () => { saving ||= setTimeout(save, 500); };

const statusText = (run, frames) => {
  const last = frames[frames.length - 1];
  if (last.status) return STATUS[last.status];
  if (!Number.isFinite(last.value)) return "diverged";
  return isOver(run) && frames.length === run.frames.length ? "diverged" : "running";
};
const showScore = () => {
  const body = $("score").tBodies[0], focused = body.contains(document.activeElement) &&
    document.activeElement.closest("tr").dataset.method;
  body.replaceChildren(...S.methods.map((name) => {
    const run = runs[name], frames = shownFrames(name), last = frames[frames.length - 1];
    const far = distance(run.landscape, last.anchor);
    const button = element("button", { type: "button" }, dot(name), METHODS[name].title);
    button.addEventListener("click", () => change(() => { S.focus = name; }, { settings: false, controls: true }));
    const row = element("tr", {}, element("td", {}, button),
      ...[String(frames.length), nice(last.anchorValue), nice(far), statusText(run, frames)]
        .map((text) => element("td", { textContent: text })));
    Object.assign(row.dataset, { method: name, evaluations: frames.length, value: last.anchorValue,
      distance: far, x: last.x.join(","), rejected: frames.filter((f) => !f.accepted).length });
    row.setAttribute("aria-selected", name === S.focus);
    return row;
  }));
  if (focused) body.querySelector(`[data-method="${focused}"] button`)?.focus();
};

// The map. Both axes have one scale, so that gradients stand on contours at right angles.

const sized = (canvas) => {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
};
const viewOf = (width, height) => {
  const [left, right, bottom, top] = LANDSCAPES[S.landscape].window;
  const scale = Math.min(width / (right - left), height / (top - bottom));
  const x0 = (left + right) / 2, y0 = (bottom + top) / 2;
  return {
    width, height, scale,
    to: ([x, y]) => [width / 2 + (x - x0) * scale, height / 2 - (y - y0) * scale],
    from: (u, v) => [x0 + (u - width / 2) / scale, y0 - (v - height / 2) / scale],
  };
};

// Marching squares: the segments of a level on a grid of values.
const trace = (context, values, columns, rows, level, size) => {
  context.beginPath();
  for (let j = 0; j + 1 < rows; j++) {
    for (let i = 0; i + 1 < columns; i++) {
      const k = j * columns + i;
      const corner = [values[k], values[k + 1], values[k + columns + 1], values[k + columns]];
      const points = [];
      for (let e = 0; e < 4; e++) {
        const a = corner[e] - level, b = corner[(e + 1) % 4] - level;
        if (a < 0 === b < 0) continue;
        const s = a / (a - b);
        points.push([i + [s, 1, 1 - s, 0][e], j + [0, s, 1, 1 - s][e]]);
      }
      for (let p = 0; p + 1 < points.length; p += 2) {
        context.moveTo(points[p][0] * size, points[p][1] * size);
        context.lineTo(points[p + 1][0] * size, points[p + 1][1] * size);
      }
    }
  }
  context.stroke();
};

const BANDS = 20;
const SHADES = { light: [[188, 208, 230], [250, 252, 254]], dark: [[44, 82, 122], [19, 26, 34]] };
const drawBackground = () => {
  const { width, height } = view, size = 4;
  const columns = Math.ceil(width / size) + 1, rows = Math.ceil(height / size) + 1;
  const { evaluate } = LANDSCAPES[S.landscape];
  const values = new Float64Array(columns * rows);
  for (let j = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) {
      values[j * columns + i] = evaluate(view.from(i * size, j * size), ...S.parameters)[0];
    }
  }
  // Levels by area, denser near the minimum.
  const sorted = values.slice().sort(), levels = [];
  for (let k = 0; k <= BANDS; k++) levels.push(sorted[Math.round((k / BANDS) ** 1.7 * (sorted.length - 1))]);
  const [low, high] = SHADES[dark.matches ? "dark" : "light"];
  const image = new ImageData(columns, rows);
  values.forEach((value, k) => {
    let band = 0;
    while (band < BANDS - 1 && levels[band + 1] < value) band++;
    const shade = (band + (value - levels[band]) / (levels[band + 1] - levels[band] || 1)) / BANDS;
    image.data.set([0, 1, 2].map((c) => low[c] + shade * (high[c] - low[c])), 4 * k);
    image.data[4 * k + 3] = 255;
  });
  const small = element("canvas", { width: columns, height: rows });
  small.getContext("2d").putImageData(image, 0, 0);
  const ratio = devicePixelRatio || 1;
  background = element("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const context = background.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.drawImage(small, -size / 2, -size / 2, columns * size, rows * size);
  context.lineWidth = 0.8;
  context.strokeStyle = dark.matches ? "rgba(160,185,210,.33)" : "rgba(50,80,115,.33)";
  levels.slice(1, -1).forEach((level) => trace(context, values, columns, rows, level, size));
  background.key = backgroundKey();
};
const backgroundKey = () =>
  [S.landscape, S.parameters, view.width, view.height, devicePixelRatio, dark.matches].join();

const ARROWS = [
  [/veloc/, "#00845F", "#2BD1A0"], [/gradient|steepest/, "#D55E00", "#FF8A3D"],
  [/./, "#1565C0", "#7CC8FF"],
];
// The step is drawn last, and thinner, on top of its parts.
const drawArrows = (context, arrows, to) => {
  const rank = ({ label }) => ARROWS.findIndex(([pattern]) => pattern.test(label));
  [...arrows].sort((a, b) => rank(a) - rank(b)).forEach((arrow) => {
    const { label, origin, delta } = arrow, end = [origin[0] + delta[0], origin[1] + delta[1]];
    drawArrow(context, to(origin), to(end), arrowColor(label), rank(arrow) === 2 ? 2 : 3);
  });
};
const arrowColor = (label) => ARROWS.find(([pattern]) => pattern.test(label))[dark.matches ? 2 : 1];
const halo = () => (dark.matches ? "#12161b" : "#ffffff");

// Too short an arrow shows no direction; the lens has it enlarged.
const drawArrow = (context, from, to, color, width) => {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  if (!(length > 7) || length > 1e5) return;
  const head = Math.min(10, length * 0.5), u = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
  const base = [to[0] - head * u[0], to[1] - head * u[1]];
  for (const [style, extra] of [[halo(), 2.5], [color, 0]]) {
    context.strokeStyle = context.fillStyle = style;
    context.lineWidth = width + extra;
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...base);
    context.stroke();
    context.beginPath();
    context.moveTo(...to);
    context.lineTo(base[0] - u[1] * head * 0.5, base[1] + u[0] * head * 0.5);
    context.lineTo(base[0] + u[1] * head * 0.5, base[1] - u[0] * head * 0.5);
    context.closePath();
    if (extra) context.stroke();
    context.fill();
  }
};
const circle = (context, [x, y], radius) => {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
};
const visible = ([x, y]) => Math.abs(x) < 1e5 && Math.abs(y) < 1e5;

const drawPath = (context, name) => {
  const frames = shownFrames(name), color = colorOf(name), strong = name === S.focus;
  const kept = frames.filter((f) => f.accepted).map((f) => view.to(f.x)).filter(visible);
  for (const [style, width] of [[halo(), strong ? 4.5 : 3.2], [color, strong ? 2.2 : 1.4]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.beginPath();
    kept.forEach((p, i) => (i ? context.lineTo(...p) : context.moveTo(...p)));
    context.stroke();
  }
  context.fillStyle = color;
  if (kept.length < 400) {
    kept.forEach((p) => { circle(context, p, strong ? 2.8 : 2); context.fill(); });
  }
  // Rejected trials: hollow, on a thin line from the anchor.
  context.lineWidth = 1.2;
  context.strokeStyle = color;
  frames.forEach((f, i) => {
    if (f.accepted || i === 0) return;
    const from = view.to(f.anchor), to = view.to(f.x);
    if (!visible(to)) return;
    context.setLineDash([3, 3]);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    context.setLineDash([]);
    circle(context, to, strong ? 4.5 : 3.5);
    context.fillStyle = halo();
    context.fill();
    context.stroke();
  });
  const head = view.to(frames[frames.length - 1].anchor);
  circle(context, head, strong ? 6 : 4.5);
  context.fillStyle = color;
  context.fill();
  context.strokeStyle = halo();
  context.lineWidth = 1.5;
  context.stroke();
};

// The quadratic model of Newton's methods: its contours around the anchor, and the trust region.
const drawModel = (context, frame, frames) => {
  const center = view.to(frame.anchor), color = arrowColor("model");
  const kept = frames.filter((f) => f.accepted), g = (kept[kept.length - 1] ?? frame).grad;
  const [h] = LANDSCAPES[S.landscape].hessian(frame.anchor, ...S.parameters);
  const model = ([x, y]) => {
    const p = [x - frame.anchor[0], y - frame.anchor[1]];
    return g[0] * p[0] + g[1] * p[1] + (h[0] * p[0] ** 2 + 2 * h[1] * p[0] * p[1] + h[3] * p[1] ** 2) / 2;
  };
  const { origin, delta } = frame.arrows[0], least = model([origin[0] + delta[0], origin[1] + delta[1]]);
  context.strokeStyle = color;
  context.lineWidth = 1.3;
  if (least < 0) {
    const size = 5, columns = Math.ceil(view.width / size) + 1, rows = Math.ceil(view.height / size) + 1;
    const values = Array.from({ length: columns * rows }, (_, k) =>
      model(view.from((k % columns) * size, Math.floor(k / columns) * size)));
    [0, 0.5, 0.9].forEach((part) => trace(context, values, columns, rows, part * least, size));
  }
  const radius = frame.radius * view.scale;
  if (radius > 2 && radius < 3 * view.width) {
    context.strokeStyle = arrowColor("gradient");
    context.lineWidth = 1.6;
    circle(context, center, radius);
    context.stroke();
  }
};

// The effective rate of each coordinate, as a cross; the longer arm has a fixed length.
const drawScale = (context, frame) => {
  const [u, v] = view.to(frame.anchor), most = Math.max(...frame.scale);
  if (!(most > 0) || !Number.isFinite(most)) return;
  for (const [style, width] of [[halo(), 6], [arrowColor("velocity"), 3]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.lineCap = "round";
    context.beginPath();
    const a = (46 * frame.scale[0]) / most, b = (46 * frame.scale[1]) / most;
    context.moveTo(u - a, v);
    context.lineTo(u + a, v);
    context.moveTo(u, v - b);
    context.lineTo(u, v + b);
    context.stroke();
  }
  context.lineCap = "butt";
};

const drawMap = () => {
  const { context, width, height } = sized($("map"));
  if (!width) return;
  view = viewOf(width, height);
  if (background?.key !== backgroundKey()) drawBackground();
  context.drawImage(background, 0, 0, width, height);
  S.methods.filter((m) => m !== S.focus).forEach((m) => drawPath(context, m));
  const frames = shownFrames(S.focus), frame = frames[frames.length - 1];
  if (frame.radius !== null && !frame.status) drawModel(context, frame, frames);
  drawPath(context, S.focus);
  if (frame.scale !== null) drawScale(context, frame);
  if (!frame.status) drawArrows(context, frame.arrows, view.to);
  LANDSCAPES[S.landscape].minimizers.forEach((m) => drawStar(context, view.to(m)));
  drawStart(context);
  showLegend(frame);
};
const drawStar = (context, [x, y]) => {
  context.beginPath();
  for (let k = 0; k < 10; k++) {
    const r = k % 2 ? 3.6 : 8.5, a = (Math.PI * k) / 5 - Math.PI / 2;
    context.lineTo(x + r * Math.cos(a), y + r * Math.sin(a));
  }
  context.closePath();
  context.fillStyle = "#FFC107";
  context.strokeStyle = "#5b4300";
  context.lineWidth = 1;
  context.fill();
  context.stroke();
};
const drawStart = (context) => {
  const p = view.to(S.start);
  for (const [style, width] of [[halo(), 5], [dark.matches ? "#ffffff" : "#111111", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    circle(context, p, 9);
    context.stroke();
  }
};
const showLegend = (frame) => {
  const entry = (color, text) => {
    const line = element("i");
    line.style.background = color;
    return element("span", {}, line, text);
  };
  const entries = frame.status ? [] : frame.arrows.map(({ label }) => entry(arrowColor(label), label));
  if (frame.scale !== null) entries.push(entry(arrowColor("velocity"), "rate of each coordinate"));
  if (frame.radius !== null && !frame.status) {
    entries.push(entry(arrowColor("model"), "contours of the model"), entry(arrowColor("gradient"), "trust region"));
  }
  if (shownFrames(S.focus).some((f) => !f.accepted)) entries.push(element("span", {}, "○ rejected trial"));
  $("legend").replaceChildren(...entries);
};

// The step's vectors alone, enlarged to fill a square, and its numbers.
const drawLens = () => {
  const { context, width, height } = sized($("lens"));
  const frames = shownFrames(S.focus), frame = frames[frames.length - 1];
  const arrows = frame.status ? [] : frame.arrows;
  $("lens").hidden = arrows.length === 0;
  const points = arrows.flatMap(({ origin, delta }) => [origin, [origin[0] + delta[0], origin[1] + delta[1]]]);
  if (points.length && points.flat().every(Number.isFinite)) {
    const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
    const middle = [xs, ys].map((z) => (Math.min(...z) + Math.max(...z)) / 2);
    const extent = Math.max(...[xs, ys].map((z) => Math.max(...z) - Math.min(...z)));
    const scale = extent > 0 ? (width - 34) / extent : 0;
    const to = ([x, y]) => [width / 2 + (x - middle[0]) * scale, height / 2 - (y - middle[1]) * scale];
    drawArrows(context, arrows, to);
  }
  const facts = [["point", frame.x.map(nice).join(", ")], ["gradient", frame.grad.map(nice).join(", ")]];
  if (frame.rate !== undefined) facts.push(["α now", nice(frame.rate)]);
  if (frame.scale !== null) facts.push(["rate in x", nice(frame.scale[0])], ["rate in y", nice(frame.scale[1])]);
  if (frame.radius !== null) facts.push(["radius Δ", nice(frame.radius)]);
  const rejected = frames.filter((f) => !f.accepted).length;
  if (rejected) facts.push(["rejected trials", rejected]);
  if (!frame.accepted) facts.push(["this trial", "rejected"]);
  $("facts").replaceChildren(...facts.map(([name, text]) =>
    element("div", {}, `${name} `, element("b", { textContent: text }))));
};

// Loss against evaluations

const FLOOR = 1e-12;
const drawLoss = () => {
  const { context, width, height } = sized($("loss"));
  if (!width) return;
  const { minimum } = LANDSCAPES[S.landscape], style = getComputedStyle(document.body);
  const above = (value) => Math.max(value - minimum, FLOOR);
  const curves = S.methods.map((name) => [name, shownFrames(name)]);
  const all = curves.flatMap(([, frames]) => frames.map((f) => above(f.anchorValue))).filter(Number.isFinite);
  const first = above(LANDSCAPES[S.landscape].evaluate(S.start, ...S.parameters)[0]);
  const top = Math.ceil(Math.log10(Math.min(Math.max(...all, first), 1e4 * first)) + 0.05);
  const bottom = Math.min(top - 2, Math.floor(Math.log10(Math.min(...all))));
  const most = Math.max(20, ...curves.map(([, frames]) => frames.length));
  const [left, right, over, under] = [50, 12, 22, 34];
  const u = (n) => left + ((n - 1) / (most - 1)) * (width - left - right);
  const v = (y) => over + ((top - y) / (top - bottom)) * (height - over - under);
  const soft = style.getPropertyValue("--soft"), line = style.getPropertyValue("--line");
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = soft;
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const every = Math.max(1, Math.ceil((top - bottom) / 6));
  for (let y = top; y >= bottom; y -= every) {
    context.beginPath();
    context.moveTo(left, v(y));
    context.lineTo(width - right, v(y));
    context.stroke();
    context.fillText(y >= -2 && y <= 3 ? String(Number((10 ** y).toPrecision(1))) : `1e${y}`.replace("-", "−"), left - 6, v(y));
  }
  context.textAlign = "center";
  const raw = most / 8, unit = 10 ** Math.floor(Math.log10(raw));
  const tick = unit * [1, 2, 5, 10].find((m) => m * unit >= raw);
  for (let n = tick; n <= most; n += tick) context.fillText(n, u(n), height - under + 12);
  context.textAlign = "left";
  context.fillText("f(x) − minimum", 2, 9);
  context.textAlign = "right";
  context.fillText("evaluations", width - right, height - 7);
  context.save();
  context.beginPath();
  context.rect(left - 4, over - 4, width - left - right + 8, height - over - under + 8);
  context.clip();
  for (const [name, frames] of [...curves].sort(([a], [b]) => (a === S.focus) - (b === S.focus))) {
    context.strokeStyle = colorOf(name);
    context.lineWidth = name === S.focus ? 2.6 : 1.6;
    context.beginPath();
    frames.forEach((f, i) => {
      const y = Number.isFinite(f.anchorValue) ? Math.log10(above(f.anchorValue)) : top + 1;
      if (i) context.lineTo(u(i + 1), v(y)); else context.moveTo(u(1), v(y));
    });
    context.stroke();
    const shown = frames.length === 1 ? frames : frames.filter((f) => !f.accepted);
    shown.forEach((f) => {
      const y = Number.isFinite(f.value) ? Math.log10(above(f.value)) : top;
      circle(context, [u(frames.indexOf(f) + 1), v(Math.min(y, top))], 3);
      context.lineWidth = 1.2;
      context.stroke();
    });
  }
  context.restore();
};

// Events

const goTo = (t) => change(() => { S.t = Math.max(0, Math.min(LIMIT, t)); }, { settings: false });
const stepOn = (n) => {
  const t = S.t;
  goTo(t + n);
  // No further than the last evaluation of all runs.
  const last = Math.max(...S.methods.map((m) => runs[m].frames.length)) - 1;
  if (last < S.t) goTo(Math.max(last, t));
};
let owed = 0, before = 0;
const tick = (now) => {
  if (!playing) return;
  const perSecond = 1.5 * 100 ** ($("speed").value / 100);
  owed += Math.min(0.25, (now - before) / 1000) * perSecond;
  before = now;
  const steps = Math.floor(owed);
  owed -= steps;
  if (steps) stepOn(steps);
  if (finished()) setPlaying(false);
  else requestAnimationFrame(tick);
};
const setPlaying = (on) => {
  if (on && finished()) goTo(0);
  playing = on;
  owed = 1;
  before = performance.now();
  $("play").textContent = playing ? "❚❚ Pause" : "▶ Play";
  if (playing) requestAnimationFrame(tick);
};
const moveStart = (point) => change(() => {
  S.start = point.map((x) => Number(x.toPrecision(5)));
  S.t = playing ? 0 : S.t;
});

$("play").addEventListener("click", () => setPlaying(!playing));
$("step").addEventListener("click", () => { setPlaying(false); stepOn(1); });
$("leap").addEventListener("click", () => { setPlaying(false); stepOn(100); });
$("back").addEventListener("click", () => { setPlaying(false); goTo(S.t - 1); });
$("restart").addEventListener("click", () => { setPlaying(false); goTo(0); });
$("tuned").addEventListener("click", () => change(() => {
  METHODS[S.focus].sliders.forEach((s) => delete S.numbers[`${S.focus}.${s.name}`]);
}, { controls: true }));
$("seed").addEventListener("click", () => change(() => { S.seed = (S.seed % 9999) + 1; }));
$("decay").addEventListener("change", (event) => change(() => {
  setDecay(event.target.value);
  showDecay();
}));
$("link").addEventListener("click", async () => {
  save();
  try {
    await navigator.clipboard.writeText(location.href);
    $("link").textContent = "Copied";
  } catch {
    $("link").textContent = "It is in the address bar";
  }
  setTimeout(() => { $("link").textContent = "Copy a link to this state"; }, 2000);
});

// A click sets the start, a drag moves it. A finger drags it only from its ring, and scrolls elsewhere.
const map = $("map");
const pointOf = (event) => {
  const box = map.getBoundingClientRect();
  return [event.clientX - box.left - map.clientLeft, event.clientY - box.top - map.clientTop];
};
const nearStart = (point) => {
  const [x, y] = view.to(S.start);
  return Math.hypot(point[0] - x, point[1] - y) < 32;
};
let dragging = false;
map.addEventListener("pointerdown", (event) => {
  dragging = event.pointerType === "mouse" || nearStart(pointOf(event));
  if (!dragging) return;
  map.setPointerCapture(event.pointerId);
  if (event.pointerType === "mouse" && !nearStart(pointOf(event))) moveStart(view.from(...pointOf(event)));
});
map.addEventListener("touchstart", (event) => {
  if (nearStart(pointOf(event.touches[0]))) event.preventDefault();
}, { passive: false });
map.addEventListener("pointermove", (event) => {
  if (dragging && event.buttons) moveStart(view.from(...pointOf(event)));
});
for (const type of ["pointerup", "pointercancel"]) map.addEventListener(type, () => { dragging = false; });
map.addEventListener("click", (event) => {
  if (!nearStart(pointOf(event))) moveStart(view.from(...pointOf(event)));
});

const ARROW_KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const on = event.target, typing = on.matches("input, select");
  const act = {
    " ": () => setPlaying(!playing), ".": () => $("step").click(), ",": () => $("back").click(),
    Home: () => $("restart").click(),
  }[event.key];
  if (on === map && ARROW_KEYS[event.key]) {
    const pixels = event.shiftKey ? 20 : 4;
    moveStart(S.start.map((x, i) => x + (ARROW_KEYS[event.key][i] * pixels) / view.scale));
    event.preventDefault();
  } else if (act && !(typing && event.key === "Home") && !(event.key === " " && on.matches("button, select, a"))) {
    act();
    event.preventDefault();
  }
});

const open = () => {
  setPlaying(false);
  fromHash(location.hash);
  change(() => {}, { controls: true });
  // A link to a step after the end of all runs leads to the end.
  const last = Math.max(...S.methods.map((m) => runs[m].frames.length)) - 1;
  if (last < S.t) goTo(last);
};
window.addEventListener("hashchange", open);
dark.addEventListener("change", () => change(() => {}, { settings: false, controls: true }));
new ResizeObserver(() => { if (S) show(); }).observe(map);

$("lessons").replaceChildren(...LESSONS.map((lesson) => element("li", {},
  element("a", { href: lesson.state, textContent: lesson.title }),
  element("small", { textContent: `${lesson.section}: ${lesson.text}` }))));
$("lessons").addEventListener("click", () => {
  save(); // so that the browser's Back returns to this state
  map.scrollIntoView({ block: "nearest" });
});
open();
