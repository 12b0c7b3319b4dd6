/* Strokes to an image as MNIST's were made. Nothing here touches the page.
 *
 * A drawing becomes what `rowrnn predict` makes of a picture of it; see rowrnn/data/pictures.py.
 * What that file does about paper, noise and photographs has nothing to do here: the ink is known,
 * and all of it but specks is the digit, where `predict` would leave out what lies apart.
 */
"use strict";

// The digit's box within the image, as a share of each side.
const BOX = 20 / 28;
// Share of the strongest ink below which ink is no part of the digit.
const FAINT = 0.15;
// Share of the largest part below which a part is a speck.
const SPECK = 0.05;
// Least ink that counts, out of 255.
const LEAST_INK = 8;

/** A square sheet of side * side pixels without ink, and room to look for the digit on it. */
function makeSheet(side) {
  return {
    side,
    ink: new Uint8Array(side * side),
    parts: new Int32Array(side * side),
    sizes: new Int32Array(side * side + 1),
    pending: new Int32Array(side * side),
    box: { top: 0, bottom: 0, left: 0, right: 0 },
  };
}

/**
 * Draws a line with a round pen, its edge smoothed over a pixel.
 *
 * Coordinates and the pen's radius are in pixels; the middle of the first pixel is (0.5, 0.5).
 */
function drawLine({ side, ink }, x0, y0, x1, y1, radius) {
  const reach = radius + 1;
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
  const right = Math.min(side, Math.ceil(Math.max(x0, x1) + reach));
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
  const bottom = Math.min(side, Math.ceil(Math.max(y0, y1) + reach));
  const dx = x1 - x0;
  const dy = y1 - y0;
  const squared = dx * dx + dy * dy;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const x = column + 0.5 - x0;
      const y = row + 0.5 - y0;
      const along = squared ? Math.min(1, Math.max(0, (x * dx + y * dy) / squared)) : 0;
      const distance = Math.hypot(x - along * dx, y - along * dy);
      const level = 255 * Math.min(1, Math.max(0, radius + 0.5 - distance));
      const place = row * side + column;
      if (level > ink[place]) ink[place] = level;
    }
  }
}

/** An image of rows * pixels without a digit, and room to take one from a sheet, "as_is" or not. */
function makePicture(rows, pixels, sheet, pictures = "digit") {
  const height = rows + 2 * marginOf(rows);
  const width = pixels + 2 * marginOf(pixels);
  return {
    rows,
    pixels,
    pictures,
    image: new Uint8Array(rows * pixels),
    crop: { top: 0, bottom: 0, left: 0, right: 0 },
    filter: { first: 0, count: 0, weights: new Float64Array(2 * sheet.side + 3) },
    narrow: new Float32Array(sheet.side * width),
    digit: new Float32Array(height * width),
  };
}

/** Makes the image of the digit on a sheet; false, and an empty image, where there is none. */
function takePicture(picture, sheet) {
  const { rows, pixels, crop } = picture;
  picture.image.fill(0);
  if (!findDigit(sheet)) return false;
  if (picture.pictures === "as_is") {
    crop.top = crop.left = 0;
    crop.bottom = crop.right = sheet.side;
    resize(picture, sheet, rows, pixels);
    for (let k = 0; k < rows * pixels; k++) picture.image[k] = roundToEven(picture.digit[k]);
    return true;
  }
  const { top, bottom, left, right } = sheet.box;
  const scale = Math.min((BOX * rows) / (bottom - top), (BOX * pixels) / (right - left));
  // The faint outer edge of the strokes comes along.
  const above = roundToEven((BOX * rows) / scale / 20);
  const beside = roundToEven((BOX * pixels) / scale / 20);
  crop.top = Math.max(0, top - above);
  crop.bottom = Math.min(sheet.side, bottom + above);
  crop.left = Math.max(0, left - beside);
  crop.right = Math.min(sheet.side, right + beside);
  const height = Math.max(1, roundToEven(scale * (crop.bottom - crop.top)));
  const width = Math.max(1, roundToEven(scale * (crop.right - crop.left)));
  resize(picture, sheet, height, width);
  placeDigit(picture, height, width);
  return true;
}

/** Finds the box of everything inked, specks left out; false where there is no ink. */
function findDigit({ side, ink, parts, sizes, pending, box }) {
  let strongest = 0;
  for (let k = 0; k < ink.length; k++) strongest = Math.max(strongest, ink[k]);
  if (strongest < LEAST_INK) return false;
  const faint = FAINT * strongest;
  parts.fill(0);
  let count = 0;
  let largest = 0;
  for (let k = 0; k < ink.length; k++) {
    if (parts[k] === 0 && ink[k] > faint) {
      count += 1;
      sizes[count] = numberPart(side, ink, faint, parts, pending, k, count);
      largest = Math.max(largest, sizes[count]);
    }
  }
  box.top = box.left = side;
  box.bottom = box.right = 0;
  for (let k = 0; k < ink.length; k++) {
    if (parts[k] === 0 || sizes[parts[k]] <= SPECK * largest) continue;
    const row = Math.floor(k / side);
    const column = k - row * side;
    box.top = Math.min(box.top, row);
    box.bottom = Math.max(box.bottom, row + 1);
    box.left = Math.min(box.left, column);
    box.right = Math.max(box.right, column + 1);
  }
  return true;
}

/** Gives a number to all ink that hangs together with a pixel, also by corners; returns how much. */
function numberPart(side, ink, faint, parts, pending, first, number) {
  let size = 0;
  let waiting = 1;
  pending[0] = first;
  parts[first] = number;
  while (waiting > 0) {
    const from = pending[--waiting];
    const row = Math.floor(from / side);
    const column = from - row * side;
    size += 1;
    for (let y = Math.max(0, row - 1); y <= Math.min(side - 1, row + 1); y++) {
      for (let x = Math.max(0, column - 1); x <= Math.min(side - 1, column + 1); x++) {
        const to = y * side + x;
        if (parts[to] === 0 && ink[to] > faint) {
          parts[to] = number;
          pending[waiting++] = to;
        }
      }
    }
  }
  return size;
}

/**
 * Resizes the crop of a sheet to the digit [height, width], as Pillow's HAMMING filter does.
 *
 * First across, then down; what lies between the two passes is float32 there too.
 */
function resize({ crop, filter, narrow, digit }, { side, ink }, height, width) {
  const tall = crop.bottom - crop.top;
  for (let x = 0; x < width; x++) {
    setFilter(filter, crop.right - crop.left, width, x);
    for (let row = 0; row < tall; row++) {
      const start = (crop.top + row) * side + crop.left + filter.first;
      let sum = 0;
      for (let k = 0; k < filter.count; k++) sum += filter.weights[k] * ink[start + k];
      narrow[row * width + x] = sum;
    }
  }
  for (let y = 0; y < height; y++) {
    setFilter(filter, tall, height, y);
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let k = 0; k < filter.count; k++) {
        sum += filter.weights[k] * narrow[(filter.first + k) * width + x];
      }
      digit[y * width + x] = Math.max(0, sum);
    }
  }
}

/** Sets which of `from` pixels, and by which weights, make the pixel `index` of `to`. */
function setFilter(filter, from, to, index) {
  const scale = from / to;
  const reach = Math.max(1, scale);
  const centre = (index + 0.5) * scale;
  filter.first = Math.max(0, Math.trunc(centre - reach + 0.5));
  filter.count = Math.min(from, Math.trunc(centre + reach + 0.5)) - filter.first;
  let total = 0;
  for (let k = 0; k < filter.count; k++) {
    const weight = hamming((filter.first + k - centre + 0.5) / reach);
    filter.weights[k] = weight;
    total += weight;
  }
  for (let k = 0; k < filter.count; k++) filter.weights[k] /= total;
}

/** A sinc in a Hamming window, from -1 to 1. */
function hamming(x) {
  if (x === 0) return 1;
  if (Math.abs(x) >= 1) return 0;
  const angle = Math.PI * x;
  return (Math.sin(angle) / angle) * (0.54 + 0.46 * Math.cos(angle));
}

/** Puts the digit into the image, its centre of mass in the middle and its strongest ink 255. */
function placeDigit(picture, height, width) {
  const { rows, pixels, image, digit } = picture;
  let strongest = 0;
  for (let k = 0; k < height * width; k++) strongest = Math.max(strongest, digit[k]);
  const top = startAt(centreOf(picture, height, width, width, 1), height, rows);
  const left = startAt(centreOf(picture, width, height, 1, width), width, pixels);
  for (let y = Math.max(0, -top); y < Math.min(height, rows - top); y++) {
    for (let x = Math.max(0, -left); x < Math.min(width, pixels - left); x++) {
      const level = roundToEven(digit[y * width + x] * (255 / strongest));
      image[(top + y) * pixels + left + x] = level;
    }
  }
}

/** The centre of mass along an axis of `length`; strides are those of this axis and the other. */
function centreOf({ digit }, length, other, stride, otherStride) {
  let mass = 0;
  let moment = 0;
  for (let along = 0; along < length; along++) {
    let sum = 0;
    for (let across = 0; across < other; across++) {
      sum += digit[along * stride + across * otherStride];
    }
    mass += sum;
    moment += sum * along;
  }
  return moment / mass;
}

/** Where a digit of `length` starts, so that its centre lies in the middle; it stays at the edge. */
function startAt(centre, length, side) {
  const margin = marginOf(side);
  const start = roundToEven(Math.floor(side / 2) - centre);
  return Math.min(Math.max(start, -margin), side + margin - length);
}

/** Pixels around an image that a digit at its edge may lose. */
function marginOf(side) {
  return roundToEven((BOX * side) / 20);
}

/** Rounds as Python does: a half to the even neighbour. */
function roundToEven(x) {
  const below = Math.floor(x);
  const rest = x - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}
