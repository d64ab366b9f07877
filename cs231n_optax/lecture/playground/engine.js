// Runs of the translated programs: the ordinary loop, one evaluation a step.

// Normal noise from a seed: mulberry32, and Box and Muller's transformation.
const normals = (seed) => {
  let s = seed >>> 0;
  const uniform = () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
};

const STATUS = ["", "converged", "stalled", "failed", "", "saddle", "misplaced", "unbounded", ""];

// setup: {landscape, parameters, method, numbers, decay, decayNumbers, start, noise, seed}.
// A frame is an evaluation: its point, what the method decided there, and the step from there.
const startRun = (setup) => {
  const method = METHODS[setup.method];
  return {
    setup, method, landscape: LANDSCAPES[setup.landscape], random: normals(setup.seed),
    state: method.init(setup.start), next: setup.start, frames: [], status: 0,
  };
};

const isOver = (run) => run.status !== 0 || !run.next.every(Number.isFinite);

const advance = (run) => {
  if (isOver(run)) return false;
  const { setup, method, landscape } = run, x = run.next, t = run.frames.length;
  const [value, exact] = landscape.evaluate(x, ...setup.parameters);
  const grad = setup.noise > 0 ? exact.map((g) => g + setup.noise * run.random()) : exact;
  const hessian = method.needsHessian ? landscape.hessian(x, ...setup.parameters)[0] : [0, 0, 0, 0];
  const numbers = method.sliders.map((s) => setup.numbers[s.name]);
  let rate;
  method.sliders.forEach((s, i) => {
    if (s.name !== "learning_rate") return;
    rate = numbers[i] = DECAYS[setup.decay].rate(numbers[i], t, ...setup.decayNumbers)[0];
  });
  const out = method.step(x, value, grad, hessian, ...numbers, ...run.state);
  let k = 4;
  const scale = method.hasScale ? out[k++] : null, radius = method.hasRadius ? out[k++] : null;
  const arrows = method.arrows.map((label) => ({ label, origin: out[k++], delta: out[k++] }));
  const [next, accepted, status, anchor] = out;
  const last = run.frames[t - 1];
  run.frames.push({
    x, value, grad, accepted, status, anchor, scale, radius, arrows, rate,
    anchorValue: accepted || !last ? value : last.anchorValue,
  });
  run.state = out.slice(k);
  run.next = next;
  run.status = status;
  return true;
};

const distance = (landscape, x) =>
  Math.min(...landscape.minimizers.map((m) => Math.hypot(x[0] - m[0], x[1] - m[1])));
