/* The page: a sheet to draw on, and the network reading what is on it, row by row. */
"use strict";

// Pixels of the sheet along a side. The pen is as wide as in MNIST where a digit fills most of it.
const SHEET_SIDE = 400;
const PEN_RADIUS = 15;
// Seconds that a whole reading takes at speed 1.
const READING_SECONDS = 2.8;
// The page was hidden where two frames are further apart.
const LONGEST_FRAME_SECONDS = 0.1;
// Most columns of a map; more are but noise to the eye.
const MOST_COLUMNS = 64;
// Most classes that are shown without scrolling.
const MOST_CLASSES = 16;
const SVG = "http://www.w3.org/2000/svg";
const SPEEDS = { "-2": "¼×", "-1": "½×", 0: "1×", 1: "2×", 2: "4×" };

const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

const network = makeNetwork(JSON.parse(byId("network").textContent));
const state = makeState(network);
const sheet = makeSheet(SHEET_SIDE);
const picture = makePicture(network.rows, network.pixels, sheet, network.pictures);

/** The pointer that draws, or null, and where it was last, in pixels of the sheet. */
const pen = { pointer: null, x: 0, y: 0, hasMoved: false };

/**
 * How far the picture is read. The line is `position` rows from the top, and the network has read
 * the row that it is in. `probabilities` [(T + 1) * C] and `best` [T + 1] are those after 0, 1, …, T
 * rows; all are 0 after none. `written` is the number of rows that the words on the page speak of.
 */
const reading = {
  isPlaying: false,
  position: 0,
  written: 0,
  probabilities: new Float64Array((network.rows + 1) * network.classes),
  best: new Int32Array(network.rows + 1),
};

/** Whether a frame is due, the time of the last one in milliseconds, and how fast rows are read. */
const clock = { isRunning: false, before: 0, rowsPerSecond: 0 };

const colours = readColours();
const views = {
  sheet: makeView("sheet", SHEET_SIDE, SHEET_SIDE),
  picture: makeView("picture", network.pixels, network.rows),
  line: { canvas: byId("line"), context: byId("line").getContext("2d"), pictureWidth: 0 },
};
const lastLayer = state.layers[state.layers.length - 1];
const order = orderUnits();
const maps = [
  makeMap("map-h", lastLayer.h, 0),
  makeMap("map-i", lastLayer.gates, 0),
  makeMap("map-f", lastLayer.gates, 2 * network.hidden),
  makeMap("map-o", lastLayer.gates, 3 * network.hidden),
];
const bars = Array.from({ length: network.classes }, makeBar);

/* What is on the page. */

/** The colours of the style sheet, as three numbers each, and those of the line as text. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const numbers = (name) => style.getPropertyValue(name).trim().split(" ").map(Number);
  return {
    ink: numbers("--ink"),
    warm: numbers("--warm"),
    cool: numbers("--cool"),
    gate: numbers("--gate"),
    line: `rgb(${style.getPropertyValue("--warm")})`,
    unread: `rgb(${style.getPropertyValue("--paper")} / 0.7)`,
  };
}

/** A canvas and its pixels, which are of one colour or another and more or less opaque. */
function makeView(id, width, height) {
  const canvas = byId(id);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  return { context, width, pixels: context.createImageData(width, height) };
}

function setPixel({ pixels }, place, colour, opacity) {
  pixels.data[4 * place] = colour[0];
  pixels.data[4 * place + 1] = colour[1];
  pixels.data[4 * place + 2] = colour[2];
  pixels.data[4 * place + 3] = 255 * opacity;
}

/**
 * A map with a row for each row of the picture, whose columns are means over neighbouring units.
 *
 * The values of the units are those in `source` from `offset` on, when their row has been read.
 */
function makeMap(id, source, offset) {
  const columns = Math.min(network.hidden, MOST_COLUMNS);
  const values = new Float32Array(network.rows * columns);
  return { ...makeView(id, columns, network.rows), columns, values, source, offset };
}

/** The units, sorted by the class that each favours: that of its largest weight in the readout. */
function orderUnits() {
  const { hidden, classes, readout } = network;
  const favoured = Int32Array.from({ length: hidden }, (_, unit) => {
    const weights = readout.kernel.subarray(unit * classes, (unit + 1) * classes);
    return weights.indexOf(Math.max(...weights));
  });
  return Int32Array.from(favoured.keys()).sort((a, b) => favoured[a] - favoured[b] || a - b);
}

/** The line of a class in the list, with a bar for its probability. */
function makeBar(_, label) {
  const item = document.createElement("li");
  const name = item.appendChild(document.createElement("span"));
  const drawing = item.appendChild(document.createElementNS(SVG, "svg"));
  const bar = drawing.appendChild(document.createElementNS(SVG, "rect"));
  const share = item.appendChild(document.createElement("span"));
  name.textContent = network.names[label];
  drawing.setAttribute("viewBox", "0 0 1 1");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  share.className = "share";
  byId("classes").append(item);
  return { item, share, width: bar.width.baseVal };
}

/* Painting. */

function paintSheet(left, top, right, bottom) {
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      setPixel(views.sheet, y * SHEET_SIDE + x, colours.ink, sheet.ink[y * SHEET_SIDE + x] / 255);
    }
  }
  const { context, pixels } = views.sheet;
  context.putImageData(pixels, 0, 0, left, top, right - left, bottom - top);
}

function paintPicture() {
  for (let k = 0; k < picture.image.length; k++) {
    setPixel(views.picture, k, colours.ink, picture.image[k] / 255);
  }
  views.picture.context.putImageData(views.picture.pixels, 0, 0);
}

/** Paints the row of a map that has just been read. */
function addToMap(map, row) {
  const { columns, values, source, offset } = map;
  for (let column = 0; column < columns; column++) {
    const start = Math.floor((column * network.hidden) / columns);
    const end = Math.floor(((column + 1) * network.hidden) / columns);
    let sum = 0;
    for (let k = start; k < end; k++) sum += source[offset + order[k]];
    values[row * columns + column] = sum / (end - start);
  }
  paintMapRow(map, row);
}

function paintMapRow(map, row) {
  const { context, pixels, columns, values } = map;
  for (let k = row * columns; k < (row + 1) * columns; k++) {
    const colour = map !== maps[0] ? colours.gate : values[k] < 0 ? colours.cool : colours.warm;
    setPixel(map, k, colour, Math.abs(values[k]));
  }
  context.putImageData(pixels, 0, 0, 0, row, columns, 1);
}

function clearMaps() {
  for (const { context, pixels } of maps) {
    pixels.data.fill(0);
    context.putImageData(pixels, 0, 0);
  }
}

/** Sets the bars to the probabilities where the line is, between those before and after its row. */
function paintBars() {
  const { classes } = network;
  const row = Math.floor(reading.position);
  const part = calm.matches ? 0 : reading.position - row;
  const before = row * classes;
  const after = part ? before + classes : before;
  for (let label = 0; label < classes; label++) {
    const probability = reading.probabilities[before + label];
    bars[label].width.value =
      probability + part * (reading.probabilities[after + label] - probability);
  }
}

/** Paints the line across all panels, and a veil over what it has not come to in the picture. */
function paintLine() {
  const { canvas, context, pictureWidth } = views.line;
  const { width, height } = canvas;
  const border = devicePixelRatio;
  context.clearRect(0, 0, width, height);
  if (reading.position === network.rows) {
    paintSince(((findSince() - 1) / network.rows) * height);
  } else if (reading.position > 0) {
    const row = calm.matches ? Math.floor(reading.position) : reading.position;
    const y = (row / network.rows) * height;
    context.fillStyle = colours.unread;
    context.fillRect(border, y, pictureWidth - 2 * border, Math.max(0, height - border - y));
    context.fillStyle = colours.line;
    context.fillRect(0, y - border, width, 2 * border);
  }
}

/** A dashed line: from here on the prediction was the last one. */
function paintSince(y) {
  const { canvas, context } = views.line;
  const dash = 6 * devicePixelRatio;
  context.fillStyle = colours.line;
  for (let x = 0; x < canvas.width; x += 2 * dash) {
    context.fillRect(x, Math.max(0, y - devicePixelRatio), dash, 2 * devicePixelRatio);
  }
}

/** Writes what is predicted after the rows that the line has left behind. */
function write() {
  const rows = Math.floor(reading.position);
  const { best, probabilities, written } = reading;
  const { classes } = network;
  bars[best[written]].item.className = "";
  reading.written = rows;
  for (let label = 0; label < classes; label++) {
    bars[label].share.textContent = rows ? percent(probabilities[rows * classes + label]) : "";
  }
  if (rows) bars[best[rows]].item.className = "best";
  byId("now").textContent = rows ? `row ${rows} of ${network.rows}: ${network.names[best[rows]]}` : "";
  byId("end").textContent = rows < network.rows ? "" : verdict();
}

function verdict() {
  const { rows, classes } = network;
  const label = reading.best[rows];
  const share = percent(reading.probabilities[rows * classes + label]);
  return `It has predicted ${network.names[label]} since row ${findSince()} of ${rows}, the dashed line (${share} at the end).`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** The row, counted from 1, from which on the last answer was the best after each. */
function findSince() {
  const { best } = reading;
  let row = network.rows;
  while (row > 1 && best[row - 1] === best[network.rows]) row -= 1;
  return row;
}

/* Reading. */

/** Forgets the last reading. */
function unread() {
  reading.isPlaying = false;
  reading.position = 0;
  resetState(state);
  clearMaps();
  paintBars();
  paintLine();
  write();
}

/** Reads the picture from the top: at once where nobody wants to see things move. */
function read(isReplay) {
  unread();
  if (calm.matches && !isReplay) {
    moveLine(network.rows);
  } else {
    reading.isPlaying = true;
    wake();
  }
}

/** Moves the line down to a position, and reads the rows that it comes to. */
function moveLine(position) {
  const { rows, classes } = network;
  reading.position = Math.min(position, rows);
  while (state.row < reading.position) {
    readRow(network, state, picture.image);
    reading.probabilities.set(state.probabilities, state.row * classes);
    reading.best[state.row] = indexOfLargest(state.probabilities);
    for (const map of maps) addToMap(map, state.row - 1);
  }
  reading.isPlaying &&= reading.position < rows;
  paintBars();
  paintLine();
  if (Math.floor(reading.position) !== reading.written) write();
}

function indexOfLargest(values) {
  let best = 0;
  for (let k = 1; k < values.length; k++) if (values[k] > values[best]) best = k;
  return best;
}

/* Frames. They come while there is something to move; those within a row make no objects. */

function wake() {
  if (clock.isRunning) return;
  clock.isRunning = true;
  clock.before = performance.now();
  requestAnimationFrame(frame);
}

function frame(now) {
  const seconds = Math.max(0, now - clock.before) / 1000;
  clock.before = now;
  if (pen.hasMoved) {
    pen.hasMoved = false;
    takePicture(picture, sheet);
    paintPicture();
  }
  if (reading.isPlaying) {
    moveLine(reading.position + clock.rowsPerSecond * Math.min(seconds, LONGEST_FRAME_SECONDS));
  }
  clock.isRunning = pen.pointer !== null || reading.isPlaying;
  if (clock.isRunning) requestAnimationFrame(frame);
}

/* What the reader of the page does. */

function lowerPen(event) {
  if (pen.pointer !== null || event.button !== 0) return;
  event.preventDefault();
  pen.pointer = event.pointerId;
  event.target.setPointerCapture(event.pointerId);
  byId("hint").hidden = true;
  unread();
  const [x, y] = placeOf(event);
  [pen.x, pen.y] = [x, y];
  drawTo(x, y);
  wake();
}

function movePen(event) {
  if (event.pointerId !== pen.pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const each of events.length ? events : [event]) drawTo(...placeOf(each));
}

function liftPen(event) {
  if (event.pointerId !== pen.pointer) return;
  pen.pointer = null;
  pen.hasMoved = false;
  const isSomething = takePicture(picture, sheet);
  paintPicture();
  byId("replay").disabled = !isSomething;
  if (isSomething) read(false);
}

/** Where an event is on the sheet, in its pixels. */
function placeOf({ clientX, clientY }) {
  const box = byId("sheet").getBoundingClientRect();
  const across = (clientX - box.left) / box.width;
  const down = (clientY - box.top) / box.height;
  return [across * SHEET_SIDE, down * SHEET_SIDE];
}

function drawTo(x, y) {
  drawLine(sheet, pen.x, pen.y, x, y, PEN_RADIUS);
  const inside = (place) => Math.min(SHEET_SIDE, Math.max(0, Math.round(place)));
  const reach = PEN_RADIUS + 2;
  paintSheet(
    inside(Math.min(pen.x, x) - reach),
    inside(Math.min(pen.y, y) - reach),
    inside(Math.max(pen.x, x) + reach),
    inside(Math.max(pen.y, y) + reach),
  );
  pen.x = x;
  pen.y = y;
  pen.hasMoved = true;
}

function clear() {
  sheet.ink.fill(0);
  picture.image.fill(0);
  unread();
  paintSheet(0, 0, SHEET_SIDE, SHEET_SIDE);
  paintPicture();
  byId("replay").disabled = true;
  byId("hint").hidden = false;
}

function setSpeed() {
  const { value } = byId("speed");
  clock.rowsPerSecond = (network.rows / READING_SECONDS) * 2 ** value;
  byId("factor").textContent = SPEEDS[value];
  byId("speed").setAttribute("aria-valuetext", SPEEDS[value]);
}

/** Gives the line as many pixels as the screen has for it. */
function fitLine() {
  const { canvas } = views.line;
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
  views.line.pictureWidth = Math.round(byId("picture").offsetWidth * devicePixelRatio);
  paintLine();
}

function changeColours() {
  Object.assign(colours, readColours());
  paintSheet(0, 0, SHEET_SIDE, SHEET_SIDE);
  paintPicture();
  for (const map of maps) for (let row = 0; row < state.row; row++) paintMapRow(map, row);
  paintLine();
}

// An image that is much taller or wider than it should look keeps room for the rest.
byId("picture").style.aspectRatio = Math.min(2, Math.max(0.75, network.pixels / network.rows));
byId("classes").classList.toggle("many", network.classes > MOST_CLASSES);
const sheetCanvas = byId("sheet");
sheetCanvas.addEventListener("pointerdown", lowerPen);
sheetCanvas.addEventListener("pointermove", movePen);
sheetCanvas.addEventListener("pointerup", liftPen);
sheetCanvas.addEventListener("pointercancel", liftPen);
byId("clear").addEventListener("click", clear);
byId("replay").addEventListener("click", () => read(true));
byId("speed").addEventListener("input", setSpeed);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
dark.addEventListener("change", changeColours);
new ResizeObserver(fitLine).observe(byId("line"));
setSpeed();
