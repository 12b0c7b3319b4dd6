/* The network: weights to numbers, rows of pixels to probabilities. Nothing here touches the page.
 *
 * The maths are those of rowrnn/core/lstm/reference.py, for one image. The parameters of a network
 * lie in one array, as float16, and in another what the rounding to it left. In both come, for each
 * layer, the kernel of input and hidden state together, [inputs + H, 4H] with its columns in the
 * order of the gates i, j, f, o, and the bias [4H]; then kernel [H, C] and bias [C] of the readout.
 * The projection is joined into the first kernel, and the forget bias is in the biases. Sums are
 * float64.
 */
"use strict";

/** The bytes in a base64 text, Uint8Array. */
function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

/** The number that 16 bits are as IEEE 754 binary16, which must be finite. */
function fromFloat16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return exponent ? sign * (1024 + fraction) * 2 ** (exponent - 25) : sign * fraction * 2 ** -24;
}

/** Numbers from little-endian float16 in base64, Float32Array. */
function decodeFloat16(text) {
  const bytes = decodeBase64(text);
  const numbers = new Float32Array(bytes.length / 2);
  for (let k = 0; k < numbers.length; k++) {
    numbers[k] = fromFloat16(bytes[2 * k] | (bytes[2 * k + 1] << 8));
  }
  return numbers;
}

/**
 * The network that a document of the page describes.
 *
 * @param {object} document_ rows (T), pixels (F), classes (C), their names, pictures ("digit" or
 *   "as_is"), hidden (H), layers, pooling ("last" or "mean"), weights and rests, as above.
 */
function makeNetwork(document_) {
  const { rows, pixels, classes, names, pictures, hidden, layers, pooling, weights, rests } = document_;
  const numbers = decodeFloat16(weights);
  decodeFloat16(rests).forEach((rest, k) => (numbers[k] += rest));
  let used = 0;
  const take = (count) => numbers.subarray(used, (used += count));
  const cells = [];
  for (let layer = 0; layer < layers; layer++) {
    const inputs = layer === 0 ? pixels : hidden;
    cells.push({ kernel: take((inputs + hidden) * 4 * hidden), bias: take(4 * hidden) });
  }
  const readout = { kernel: take(hidden * classes), bias: take(classes) };
  if (used !== numbers.length) throw new Error(`${numbers.length} weights instead of ${used}`);
  return { rows, pixels, classes, names, pictures, hidden, pooling, cells, readout };
}

/**
 * Room for what a network holds while it reads, before the first row.
 *
 * `row` is the number of rows read. Of each layer c and h are cell and hidden state [H], and gates
 * [4H] are i, j, f, o. `logits` and `probabilities` [C] are those after the last row read.
 */
function makeState({ pixels, classes, hidden, cells }) {
  return {
    row: 0,
    input: new Float64Array(pixels),
    layers: cells.map(() => ({
      c: new Float64Array(hidden),
      h: new Float64Array(hidden),
      gates: new Float64Array(4 * hidden),
    })),
    sum: new Float64Array(hidden),
    pooled: new Float64Array(hidden),
    logits: new Float64Array(classes),
    probabilities: new Float64Array(classes),
  };
}

/** Brings a state back to before the first row. */
function resetState(state) {
  state.row = 0;
  state.sum.fill(0);
  for (const layer of state.layers) {
    layer.c.fill(0);
    layer.h.fill(0);
  }
}

/** Reads the next row of an image, Uint8Array [T * F], and changes the state to what is after it. */
function readRow(network, state, image) {
  const start = state.row * network.pixels;
  for (let k = 0; k < network.pixels; k++) state.input[k] = image[start + k] / 255;
  let input = state.input;
  for (let layer = 0; layer < network.cells.length; layer++) {
    readWithCell(network.cells[layer], state.layers[layer], input);
    input = state.layers[layer].h;
  }
  state.row += 1;
  for (let unit = 0; unit < network.hidden; unit++) {
    state.sum[unit] += input[unit];
    state.pooled[unit] = network.pooling === "mean" ? state.sum[unit] / state.row : input[unit];
  }
  state.logits.set(network.readout.bias);
  addProduct(state.logits, state.pooled, network.readout.kernel, 0);
  softmax(state.probabilities, state.logits);
}

/** One layer, one row: c, h and the gates become what they are after the input. */
function readWithCell({ kernel, bias }, { c, h, gates }, input) {
  const hidden = h.length;
  gates.set(bias);
  addProduct(gates, input, kernel, 0);
  addProduct(gates, h, kernel, input.length * 4 * hidden);
  for (let unit = 0; unit < hidden; unit++) {
    const i = sigmoid(gates[unit]);
    const j = Math.tanh(gates[hidden + unit]);
    const f = sigmoid(gates[2 * hidden + unit]);
    const o = sigmoid(gates[3 * hidden + unit]);
    c[unit] = f * c[unit] + i * j;
    h[unit] = o * Math.tanh(c[unit]);
    gates[unit] = i;
    gates[hidden + unit] = j;
    gates[2 * hidden + unit] = f;
    gates[3 * hidden + unit] = o;
  }
}

/** Adds vector @ matrix to the sums; the matrix [vector, sums] starts at an offset of an array. */
function addProduct(sums, vector, matrix, offset) {
  const columns = sums.length;
  for (let row = 0; row < vector.length; row++) {
    const factor = vector[row];
    if (factor === 0) continue; // Most pixels are black.
    const start = offset + row * columns;
    for (let column = 0; column < columns; column++) {
      sums[column] += factor * matrix[start + column];
    }
  }
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/** Probabilities from logits. */
function softmax(probabilities, logits) {
  let largest = -Infinity;
  for (let k = 0; k < logits.length; k++) largest = Math.max(largest, logits[k]);
  let total = 0;
  for (let k = 0; k < logits.length; k++) {
    probabilities[k] = Math.exp(logits[k] - largest);
    total += probabilities[k];
  }
  for (let k = 0; k < logits.length; k++) probabilities[k] /= total;
}
