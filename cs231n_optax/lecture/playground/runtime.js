// What the translated programs call: the primitives that are not one expression.

// Arrays
const fill = (n, x) => new Array(n).fill(x);
const make = (n, f) => Array.from({ length: n }, (_, i) => f(i));
const take = (a, indices) => indices.map((i) => a[i]);
const put = (a, base, offsets, values) => {
  const copy = a.slice();
  offsets.forEach((offset, k) => { copy[base + offset] = values[k]; });
  return copy;
};
// The index of the first largest (sign 1) or smallest (sign -1) element, or of the first NaN.
const largest = (a, sign) => {
  let best = 0;
  for (let i = 0; i < a.length; i++) {
    if (Number.isNaN(a[i])) return i;
    if (sign * a[i] > sign * a[best]) best = i;
  }
  return best;
};

// Halves away from zero (method 0), or to the even neighbour (1)
const round = (x, method) => {
  const down = Math.floor(x), rest = x - down;
  if (rest !== 0.5) return Math.round(x);
  return method === 0 ? (x < 0 ? down : down + 1) : (down % 2 === 0 ? down : down + 1);
};

// Integers, as XLA divides them
const divide = (x, y) => (y === 0 ? -1 : Math.trunc(x / y) + 0);
const remainder = (x, y) => (y === 0 ? x : (x % y) + 0);
const toInt32 = (x) =>
  Number.isNaN(x) ? 0 : Math.max(-2147483648, Math.min(2147483647, Math.trunc(x))) + 0;

// Eigenvalues in ascending order, and the eigenvectors in the columns of a matrix, of a symmetric
// matrix. 2 x 2 as LAPACK's dsyevd does it, with its signs; larger ones by Jacobi's rotations.
const eigh = (a, n) => (n === 2 ? eigh2(a[0], a[2], a[3]) : jacobi(a, n));

// LAPACK's dlaev2: rt1 is the eigenvalue of the larger absolute value, (cs, sn) its eigenvector.
const eigh2 = (a, b, c) => {
  if (![a, b, c].every(Number.isFinite)) return { values: fill(2, NaN), vectors: fill(4, NaN) };
  let rt1 = a, rt2 = c, cs = 1, sn = 0;
  if (Math.abs(b) > Math.sqrt(Math.abs(a)) * Math.sqrt(Math.abs(c)) * 1.1102230246251565e-16) {
    const sum = a + c, difference = a - c, twice = b + b;
    const x = Math.abs(difference), y = Math.abs(twice);
    const [more, less] = Math.abs(a) > Math.abs(c) ? [a, c] : [c, a];
    const root = x > y ? x * Math.sqrt(1 + (y / x) ** 2)
      : x < y ? y * Math.sqrt(1 + (x / y) ** 2) : y * Math.sqrt(2);
    if (sum === 0) {
      rt1 = 0.5 * root;
      rt2 = -0.5 * root;
    } else {
      rt1 = 0.5 * (sum < 0 ? sum - root : sum + root);
      rt2 = (more / rt1) * less - (b / rt1) * b;
    }
    const shifted = difference >= 0 ? difference + root : difference - root;
    if (Math.abs(shifted) > y) {
      const ratio = -twice / shifted;
      sn = 1 / Math.sqrt(1 + ratio * ratio);
      cs = ratio * sn;
    } else {
      const ratio = -shifted / twice;
      cs = 1 / Math.sqrt(1 + ratio * ratio);
      sn = ratio * cs;
    }
    if ((sum < 0) === (difference < 0)) [cs, sn] = [-sn, cs];
  }
  if (rt1 <= rt2) return { values: [rt1, rt2], vectors: [cs, 0 - sn, sn, cs] };
  return { values: [rt2, rt1], vectors: [0 - sn, cs, cs, sn] };
};

const jacobi = (matrix, n) => {
  const a = matrix.slice(), v = make(n * n, (i) => (i % (n + 1) === 0 ? 1 : 0));
  if (!a.every(Number.isFinite)) return { values: fill(n, NaN), vectors: fill(n * n, NaN) };
  for (let sweep = 0; sweep < 60; sweep++) {
    let rotated = false;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const apq = a[p * n + q], app = a[p * n + p], aqq = a[q * n + q];
        if (Math.abs(apq) <= 1e-17 * Math.sqrt(Math.abs(app)) * Math.sqrt(Math.abs(aqq))) continue;
        rotated = true;
        const theta = (aqq - app) / (2 * apq);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(1, theta));
        const c = 1 / Math.hypot(1, t), s = t * c;
        for (let k = 0; k < n; k++) {
          const x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = c * x - s * y;
          a[k * n + q] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = c * x - s * y;
          a[q * n + k] = s * x + c * y;
        }
        a[p * n + q] = a[q * n + p] = 0;
        for (let k = 0; k < n; k++) {
          const x = v[k * n + p], y = v[k * n + q];
          v[k * n + p] = c * x - s * y;
          v[k * n + q] = s * x + c * y;
        }
      }
    }
    if (!rotated) break;
  }
  const order = make(n, (i) => i).sort((i, j) => a[i * n + i] - a[j * n + j]);
  const vectors = fill(n * n, 0);
  order.forEach((column, k) => {
    let size = 0;
    for (let i = 0; i < n; i++) {
      if (Math.abs(v[i * n + column]) > Math.abs(size)) size = v[i * n + column];
    }
    for (let i = 0; i < n; i++) vectors[i * n + k] = Math.sign(size) * v[i * n + column];
  });
  return { values: order.map((i) => a[i * n + i]), vectors };
};
