"use strict";

// What both pages share: reading the data, and drawing what is known of an atom.
// Texts come from users and from models: they go in as text, never as HTML.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const view = data.view;
const LEVELS = 255;

/* Elements */

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svgElement(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  return fill(node, attributes, children);
}

/* Numbers */

/* With 3 digits. */
function number(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e6) return value.toExponential(1).replace("e+", "e");
  return size < 1000 ? value.toPrecision(3) : Math.round(value).toLocaleString("en");
}

/* A mark of an axis, without zeros at its end. */
const short = (value) => number(value).replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");

/* Cosines, all with as many decimals. */
const cosine = (value) => (value === null ? "–" : value.toFixed(3));

function percent(value) {
  return value === null ? "–" : number(100 * value) + " %";
}

/* At most n + 1 round numbers in a range. */
function ticks(low, high, n = 4) {
  const raw = (high - low || 1) / n;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    marks.push(Number((i * step).toPrecision(12)));
  }
  return marks;
}

/* Shapes, which are kept in base64: 3 bytes are 4 characters */

const blobs = {};

function bytes(name, start, count) {
  blobs[name] ??= byId(name + "-bytes").textContent;
  const first = Math.floor(start / 3);
  const last = Math.ceil((start + count) / 3);
  const binary = atob(blobs[name].slice(4 * first, 4 * last));
  const offset = start - 3 * first;
  return Uint8Array.from({ length: count }, (_, i) => binary.charCodeAt(offset + i));
}

const nPoints = view.shape.reduce((product, size) => product * size, 1);

function shape(name, row) {
  const low = data[name].low[row];
  const step = (data[name].high[row] - low) / LEVELS;
  return Float32Array.from(bytes(name, row * nPoints, nPoints), (level) => low + step * level);
}

/* What an atom with this code adds to the mean of all reconstructions. */
function part(atom, code) {
  if (!data.offset) return null;
  const offset = shape("offset", 0);
  return atom.map((value, i) => offset[i] + code * value);
}

function limits(...curves) {
  let low = Infinity;
  let high = -Infinity;
  for (const values of curves) {
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

/* Images */

// Blue below zero, white at zero, red above: ends of ColorBrewer's RdBu.
const BELOW = [33, 102, 172];
const ABOVE = [178, 24, 43];

function signedColour(share) {
  const end = share < 0 ? BELOW : ABOVE;
  return end.map((channel) => 255 + (channel - 255) * Math.abs(share));
}

function imageFigure(values, signed, [low, high], label) {
  const [height, width, colours] = view.shape;
  const size = Math.max(-low, high) || 1;
  const scale = (value) =>
    signed ? value / size : (value - low) / (high - low || 1);
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    let colour;
    if (colours) {
      // A colour has no room for a sign: grey is zero.
      const shares = [0, 1, 2].map((c) => scale(values[3 * i + c]));
      colour = shares.map((share) => 255 * (signed ? 0.5 + share / 2 : share));
    } else if (signed) {
      colour = signedColour(scale(values[i]));
    } else {
      colour = [255, 255, 255].map((white) => white * scale(values[i]));
    }
    image.data.set([...colour, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/* Curves */

function path(values, x, y) {
  let commands = "";
  for (let i = 0; i < values.length; i++) {
    commands += (i ? "L" : "M") + x(i).toFixed(1) + " " + y(values[i]).toFixed(1);
  }
  return commands;
}

/* Position on an axis. */
function axis(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from || 1)) * (end - start);
}

function drawing(width, height, label, ...children) {
  const box = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label };
  return svgElement("svg", box, ...children);
}

function text(x, y, content, anchor = "middle") {
  return svgElement("text", { x, y, "text-anchor": anchor }, content);
}

function gridLine(x1, y1, x2, y2, kind = "grid") {
  return svgElement("path", { class: kind, d: `M${x1} ${y1}L${x2} ${y2}` });
}

/* Marks of the points along a curve, as seconds where those are known. */
function timeAxis(length, x, top, bottom) {
  const step = view.step ?? 1;
  return ticks(0, (length - 1) * step, 3).flatMap((mark) => [
    gridLine(x(mark / step), top, x(mark / step), bottom),
    text(x(mark / step), bottom + 13, short(mark) + (view.step ? " s" : ""), mark ? "middle" : "start"),
  ]);
}

/* One curve, or two, with an axis for its values. */
function curveFigure(curves, [low, high], label) {
  const [width, height, left, top, bottom] = [300, 130, 38, 8, 110];
  const length = curves[0].values.length;
  const x = axis(0, length - 1, left, width - 6);
  const y = axis(low, high, bottom, top);
  const marks = ticks(low, high, 3).flatMap((mark) => [
    gridLine(left, y(mark), width - 6, y(mark)),
    text(left - 4, y(mark) + 4, short(mark), "end"),
  ]);
  return drawing(
    width, height, label,
    ...marks,
    ...timeAxis(length, x, bottom, bottom + 3),
    ...curves.map(({ values, kind }) => svgElement("path", { class: kind, d: path(values, x, y) })),
  );
}

/* A curve for each channel, one below the other, with the same scale for all. */
function channelFigure(curves, [low, high], label, { names }) {
  const [nChannels, length] = view.shape;
  const left = names ? 34 : 2;
  const [width, row] = [300, 16];
  const size = Math.max(-low, high) || 1;
  // The first and the last channel need room for deflections of their own.
  const top = 0.2 * row;
  const bottom = (nChannels + 1) * row + 2 * top;
  const x = axis(0, length - 1, left, width - 4);
  const lines = curves.flatMap(({ values, kind }) =>
    view.labels.map((_, channel) => {
      const middle = top + (channel + 1) * row;
      // Large deflections may reach into the next channels, as on paper.
      const y = axis(-size, size, middle + 1.2 * row, middle - 1.2 * row);
      const own = values.subarray(channel * length, (channel + 1) * length);
      return svgElement("path", { class: kind, d: path(own, x, y) });
    }),
  );
  const labels = names
    ? view.labels.map((name, channel) => text(left - 4, top + (channel + 1) * row + 4, name, "end"))
    : [];
  return drawing(
    width, bottom + 18, label,
    ...timeAxis(length, x, 4, bottom), ...labels, ...lines,
  );
}

/* An atom, or a sample with what the atom puts into it, in the way of this page. */
function figureOf(values, { signed, range, label, overlay = null, names = false }) {
  if (view.kind === "image") return imageFigure(values, signed, range, label);
  const curves = [{ values, kind: signed ? "atom" : "signal" }];
  if (overlay) curves.push({ values: overlay, kind: "part" });
  return view.kind === "channels"
    ? channelFigure(curves, range, label, { names })
    : curveFigure(curves, range, label);
}

/* An atom without axes, for a row of the table. */
function thumbnail(values, label) {
  const range = limits(values);
  if (view.kind === "image") return imageFigure(values, true, range, label);
  const length = view.shape.at(-1);
  const x = axis(0, length - 1, 1, 95);
  const y = axis(...range, 35, 1);
  const lines = [];
  for (let start = 0; start < values.length; start += length) {
    const own = values.subarray(start, start + length);
    lines.push(svgElement("path", { d: path(own, x, y) }));
  }
  return drawing(96, 36, label, ...lines);
}

/* Bars */

/* Counts in bins of one width, with marks below, and levels that cross the bars. */
function barFigure({ start, width: binWidth, counts }, label, { width, height, levels = [], counted = true }) {
  const [left, bottom] = [counted ? 44 : 8, height - 22];
  const top = levels.length ? 36 : 10;
  const end = start + binWidth * counts.length;
  const most = Math.max(...counts, 0) || 1;
  const x = axis(start, end, left, width - 12);
  const y = axis(0, most, bottom, top);
  const bars = counts.map((count, i) => {
    if (!count) return "";
    // A single sample should still be seen.
    const from = Math.min(y(count), bottom - 1);
    const [near, far] = [x(start + i * binWidth), x(start + (i + 1) * binWidth)];
    const gap = far - near > 4 ? 0.5 : 0;
    return `M${(near + gap).toFixed(2)} ${bottom}V${from.toFixed(1)}H${(far - gap).toFixed(2)}V${bottom}Z`;
  });
  const vertical = counted
    ? ticks(0, most, 3).filter(Number.isInteger).flatMap((mark) => [
        gridLine(left, y(mark), width - 12, y(mark)),
        text(left - 4, y(mark) + 4, mark.toLocaleString("en"), "end"),
      ])
    : [];
  return drawing(
    width, height, label,
    ...vertical,
    svgElement("path", { class: "bars", d: bars.join("") }),
    gridLine(left, bottom, width - 12, bottom),
    ...ticks(start, end, 5).map((mark) => text(x(mark), bottom + 15, short(mark))),
    ...levels.flatMap(({ at, name }, i) => [
      gridLine(x(at), 14 * (i + 1) + 2, x(at), bottom, "level"),
      text(x(at), 14 * (i + 1) - 2, name, x(at) > width / 2 ? "end" : "start"),
    ]),
  );
}

function histogramFigure({ counts, ...bins }, label, counted) {
  if (!counts.length) return element("p", { class: "quiet" }, "Never active in these samples.");
  return barFigure({ counts, ...bins }, label, { width: 300, height: 150, counted });
}

/* Samples and texts */

/* The samples in which an atom is strongest, on one scale. */
function sampleList({ samples, codes }, atom) {
  const shown = samples.map((sample) => shape("samples", rowOf.get(sample)));
  const parts = codes.map((code) => (view.kind === "image" ? null : part(atom, code)));
  const range = limits(...shown, ...parts.filter((values) => values !== null));
  return element(
    "ul", { class: "samples " + view.kind },
    ...samples.map((sample, i) => {
      const label = `Sample ${sample}`;
      return element(
        "li", {},
        element(
          "figure", {},
          figureOf(shown[i], { signed: false, range, label, overlay: parts[i] }),
          element("figcaption", {}, `${label}: ${number(codes[i])}`),
        ),
      );
    }),
  );
}

const rowOf = new Map((data.samples?.numbers ?? []).map((sample, row) => [sample, row]));

function overlayKey() {
  return element(
    "p", { class: "quiet key" },
    element("span", {}, "the sample"), " ",
    element("span", { class: "part" }, "the mean and this atom’s part"),
  );
}

/* Line breaks, which would tear a line apart, as a sign. */
const inLine = (words) => words.replace(/\r?\n/g, "↵");

function contextList(contexts) {
  return element(
    "ul", { class: "contexts" },
    ...contexts.map(({ code, input, position, text: [before, token, after] }) =>
      element(
        "li", { title: `Input ${input}, position ${position}` },
        element("span", { class: "code" }, number(code)),
        element(
          "span", { class: "words" },
          inLine(before), element("mark", {}, inLine(token)), inLine(after),
        ),
      ),
    ),
  );
}

function heading(words) {
  return element("h3", {}, words);
}

/* Where an atom is strongest: texts or samples. */
function placesOf(detail, atom) {
  if (view.kind === "text") {
    return detail.contexts.length
      ? [heading("Where it is strongest"), contextList(detail.contexts)]
      : [element("p", { class: "quiet" }, "Nowhere active in these texts.")];
  }
  if (!detail.samples.length) {
    return [element("p", { class: "quiet" }, "No sample has a positive code.")];
  }
  return [
    heading("Samples in which it is strongest"),
    data.offset && view.kind !== "image" ? overlayKey() : null,
    sampleList(detail, atom),
  ];
}

function shapeOf(atom, label) {
  const figure = figureOf(atom, { signed: true, range: limits(atom), label, names: true });
  const key = view.kind === "image" && view.shape.length === 2
    ? element("p", { class: "quiet" }, "Red is above zero, blue below.")
    : null;
  return element("div", { class: "shape" }, figure, key);
}

/* What it is, where it is strongest, and more; beside one another where there is room. */
function atomLayout(about, places, more) {
  return element(
    "div", { class: "atom " + view.kind },
    element("div", { class: "about" }, ...about),
    element("div", { class: "places" }, ...places),
    element("div", { class: "more" }, ...more),
  );
}
