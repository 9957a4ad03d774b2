
// The page to look through atoms: curves, a table, and one atom in full.

const ROWS = 50;
const table = data.table;
const nAtoms = table.agreement.length;

/* Curves */

function lossFigure({ step, fvu }) {
  const [width, height, left, top, bottom] = [420, 190, 44, 10, 168];
  const positive = fvu.filter((value) => value > 0);
  if (!positive.length) return element("p", { class: "quiet" }, "No loss above zero.");
  const [low, high] = limits(positive).map(Math.log10);
  const [from, to] = [low - 0.05, high + 0.05];
  const x = axis(0, step.at(-1), left, width - 12);
  const y = axis(from, to, bottom, top);
  const values = fvu.map((value) => Math.max(low, Math.log10(value || 1e-300)));
  const marks = [];
  for (let power = Math.floor(from); power <= to; power++) {
    for (const factor of to - from > 3 ? [1] : [1, 2, 5]) {
      const mark = power + Math.log10(factor);
      if (mark >= from && mark <= to) marks.push([mark, factor * 10 ** power]);
    }
  }
  const curve = values.map((value, i) => `${i ? "L" : "M"}${x(step[i]).toFixed(1)} ${y(value).toFixed(1)}`);
  return drawing(
    width, height, "FVU over training steps, on a logarithmic scale",
    ...marks.flatMap(([mark, value]) => [
      gridLine(left, y(mark), width - 12, y(mark)),
      text(left - 4, y(mark) + 4, short(value), "end"),
    ]),
    ...ticks(0, step.at(-1), 4).map((mark) =>
      text(x(mark), bottom + 15, mark.toLocaleString("en") + (mark ? "" : " steps"), mark ? "middle" : "start")),
    svgElement("path", { d: curve.join("") }),
  );
}

function agreementFigure() {
  const known = table.agreement.filter((value) => value !== null);
  if (!known.length) return element("p", { class: "quiet" }, "There is nothing to compare with.");
  const random = data.null;
  const width = 0.02;
  const start = width * Math.floor((Math.min(random, ...limits(known)) - width) / width);
  const counts = new Array(Math.round((1 - start) / width)).fill(0);
  for (const value of known) {
    counts[Math.min(counts.length - 1, Math.floor((value - start) / width))]++;
  }
  return barFigure({ start, width, counts }, "Number of atoms by agreement", {
    width: 420,
    height: 190,
    levels: [{ at: random, name: `random dictionaries ${cosine(random)}` }],
  });
}

/* The table */

const best = Array.from({ length: nAtoms }, (_, atom) => {
  let nearest = null;
  for (const { name, cosine: cosines } of data.matches) {
    if (!nearest || cosines[atom] > nearest.cosine) nearest = { name, cosine: cosines[atom] };
  }
  return nearest;
});

const values = {
  atom: (atom) => atom,
  agreement: (atom) => table.agreement[atom],
  returns: (atom) => table.reappearance[atom],
  usage: (atom) => table.usage[atom],
  density: (atom) => table.density[atom],
  mean: (atom) => table.mean[atom],
  largest: (atom) => table.largest[atom],
  match: (atom) => best[atom]?.cosine ?? null,
};

const filters = byId("filters");
const body = document.querySelector("#atoms tbody");
const pageInput = byId("page");
let sorting = { column: "usage", descending: true };
let order = [];
let page = 0;

/* What a search looks through; numbers are compared as a whole. */
function searchable(atom) {
  const contexts = data.details[atom]?.contexts ?? [];
  const texts = contexts.map((context) => context.text.join(""));
  return [data.names[atom] ?? "", data.notes[atom] ?? "", ...texts].join("\n").toLowerCase();
}

const SHOWN = {
  all: () => true,
  trusted: (atom) => table.trusted[atom],
  untrusted: (atom) => !table.trusted[atom],
  active: (atom) => table.density[atom] > 0,
  dead: (atom) => table.density[atom] === 0,
  detailed: (atom) => atom in data.details,
  named: (atom) => atom in data.names || atom in data.notes,
};

/* Whether a value is between two inputs, those that are filled in. */
function between(value, from, to) {
  if (from.value !== "" && !(value !== null && value >= from.valueAsNumber)) return false;
  return to.value === "" || (value !== null && value <= to.valueAsNumber);
}

function isWanted(atom) {
  const inputs = filters.elements;
  const wanted = inputs.search.value.trim().toLowerCase();
  return (
    SHOWN[inputs.show.value](atom) &&
    between(table.agreement[atom], inputs["agreement-from"], inputs["agreement-to"]) &&
    between(100 * table.density[atom], inputs["density-from"], inputs["density-to"]) &&
    (!wanted || String(atom) === wanted.replace(/^#/, "") || searchable(atom).includes(wanted))
  );
}

function renew() {
  const value = values[sorting.column];
  const sign = sorting.descending ? -1 : 1;
  order = [];
  for (let atom = 0; atom < nAtoms; atom++) {
    if (isWanted(atom)) order.push(atom);
  }
  order.sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    // What is not known comes last either way.
    if (first === null || second === null) return (first === null) - (second === null) || a - b;
    return sign * (first - second) || a - b;
  });
  for (const header of document.querySelectorAll("th[data-column]")) {
    const direction = sorting.descending ? "descending" : "ascending";
    if (header.dataset.column === sorting.column) header.setAttribute("aria-sort", direction);
    else header.removeAttribute("aria-sort");
  }
  showPage(0);
}

function showPage(wanted) {
  const nPages = Math.max(1, Math.ceil(order.length / ROWS));
  page = Math.min(Math.max(0, wanted), nPages - 1);
  const shown = order.slice(page * ROWS, (page + 1) * ROWS);
  body.replaceChildren(...(shown.length ? shown.map(row) : [nothing()]));
  pageInput.value = page + 1;
  pageInput.max = nPages;
  byId("n-pages").textContent = nPages.toLocaleString("en");
  byId("previous-page").disabled = page === 0;
  byId("next-page").disabled = page === nPages - 1;
  const all = nAtoms.toLocaleString("en");
  byId("count").textContent = `${order.length.toLocaleString("en")} of ${all} atoms`;
}

function nothing() {
  const cell = element("td", { colspan: 8, class: "empty" }, "No atom is like that.");
  return element("tr", {}, cell);
}

function glance(atom) {
  const detail = data.details[atom];
  if (!detail) return "";
  if (view.kind === "text") {
    const tokens = new Set(detail.contexts.map((context) => inLine(context.text[1]).trim() || "␣"));
    return [...tokens].slice(0, 3).join(", ");
  }
  return thumbnail(shape("atoms", rowOfAtom.get(atom)), `Atom ${atom}`);
}

const rowOfAtom = new Map(data.atoms?.numbers.map((atom, row) => [atom, row]));

function row(atom) {
  const name = data.names[atom];
  const nearest = best[atom];
  const trusted = table.trusted[atom] ? { class: "trusted", title: "trusted" } : {};
  return element(
    "tr", { "data-atom": atom },
    element(
      "th", { scope: "row" },
      element("button", { type: "button", "aria-label": `Open atom ${atom}` + (name ? `, ${name}` : "") }, String(atom)),
      name ? element("span", { class: "name", title: name }, name) : null,
    ),
    element("td", { class: "glance" }, glance(atom)),
    element("td", trusted, cosine(table.agreement[atom])),
    element("td", {}, percent(table.reappearance[atom])),
    element("td", {}, percent(table.usage[atom])),
    element("td", {}, percent(table.density[atom])),
    element("td", {}, number(table.mean[atom])),
    element("td", {}, number(table.largest[atom])),
    element("td", {}, nearest ? `${cosine(nearest.cosine)} in ${nearest.name}` : "–"),
  );
}

const buttonOf = (atom) => body.querySelector(`[data-atom="${atom}"] button`);

/* One atom */

const dialog = byId("atom");
let current = null;

function facts(atom) {
  const trusted = table.trusted[atom] ? ", trusted" : ", not trusted";
  const pairs = [
    ["Agreement", cosine(table.agreement[atom]) + (table.agreement[atom] === null ? "" : trusted)],
    ["Returns", percent(table.reappearance[atom])],
    ["Usage", percent(table.usage[atom])],
    ["Density", percent(table.density[atom])],
    ["Mean code", number(table.mean[atom])],
    ["Largest code", number(table.largest[atom])],
  ];
  return element(
    "dl", { class: "facts" },
    ...pairs.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function matchTable(atom) {
  if (!data.matches.length) return null;
  const header = ["Nearest in", "Atom", "Cosine"].map((name) => element("th", { scope: "col" }, name));
  return element(
    "table", { class: "plain" },
    element("thead", {}, element("tr", {}, ...header)),
    element(
      "tbody", {},
      ...data.matches.map(({ name, cosine: cosines, atom: index }) =>
        element(
          "tr", {},
          element("th", { scope: "row" }, name),
          element("td", {}, String(index[atom])),
          element("td", {}, cosine(cosines[atom])),
        )),
    ),
  );
}

function tokenList(name, tokens) {
  if (!tokens) return [];
  return [
    heading(name),
    element(
      "p", { class: "tokens" },
      ...tokens.map(([token, logit]) =>
        element("span", { class: "token", title: number(logit) }, inLine(token) || "∅")),
    ),
  ];
}

function contentOf(atom) {
  const note = data.notes[atom] ? element("p", { class: "note" }, data.notes[atom]) : null;
  const detail = data.details[atom];
  if (!detail) {
    const missing = element("p", { class: "quiet" }, "Shape, samples and histogram are on this page for the atoms with the largest usage only.");
    return [note, facts(atom), missing, matchTable(atom)];
  }
  const values = view.kind === "text" ? null : shape("atoms", rowOfAtom.get(atom));
  return [note, atomLayout(
    [
      values ? shapeOf(values, `Shape of atom ${atom}`) : null,
      facts(atom),
      values && view.labels.length && view.kind === "curve" ? largestEntries(values) : null,
    ],
    [
      ...placesOf(detail, values),
      ...tokenList("Makes more likely", detail.promoted),
      ...tokenList("Makes less likely", detail.suppressed),
    ],
    [
      heading("Codes where it is active"),
      histogramFigure(detail.histogram, `Histogram of the codes of atom ${atom}`, true),
      matchTable(atom),
    ],
  )];
}

function largestEntries(values) {
  const largest = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
  const entries = largest.slice(0, 5).map((i) => `${view.labels[i]} ${number(values[i])}`);
  return element("p", { class: "quiet" }, "Largest: " + entries.join(", "));
}

function openAtom(atom) {
  current = atom;
  const name = data.names[atom];
  byId("atom-title").textContent = `Atom ${atom}` + (name ? `: ${name}` : "");
  byId("atom-body").replaceChildren(...contentOf(atom).filter((child) => child !== null));
  const place = order.indexOf(atom);
  byId("previous-atom").disabled = place <= 0;
  byId("next-atom").disabled = place === order.length - 1;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("atom-title").focus();
}

/* To the next atom of the table, as it is sorted and filtered now. */
function step(by) {
  const next = order[order.indexOf(current) + by];
  if (next !== undefined) openAtom(next);
}

/* What users do */

filters.addEventListener("input", renew);
filters.addEventListener("submit", (event) => event.preventDefault());
// Inputs are empty only after the event.
filters.addEventListener("reset", () => setTimeout(renew));

document.querySelector("#atoms thead").addEventListener("click", (event) => {
  const column = event.target.closest("th[data-column]")?.dataset.column;
  if (!column) return;
  const again = sorting.column === column;
  sorting = { column, descending: again ? !sorting.descending : column !== "atom" };
  renew();
});

byId("previous-page").addEventListener("click", () => showPage(page - 1));
byId("next-page").addEventListener("click", () => showPage(page + 1));
pageInput.addEventListener("change", () => showPage((pageInput.valueAsNumber || 1) - 1));

body.addEventListener("click", (event) => {
  const atom = event.target.closest("tr")?.dataset.atom;
  if (atom !== undefined) openAtom(Number(atom));
});

body.addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  const rows = [...body.rows];
  const next = rows[rows.indexOf(event.target.closest("tr")) + by];
  next?.querySelector("button")?.focus();
  event.preventDefault();
});

dialog.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by) step(by);
});
byId("previous-atom").addEventListener("click", () => step(-1));
byId("next-atom").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => {
  const place = order.indexOf(current);
  if (place >= 0 && Math.floor(place / ROWS) !== page) showPage(Math.floor(place / ROWS));
  buttonOf(current)?.focus();
});

byId("loss").append(lossFigure(data.loss));
byId("agreement").append(agreementFigure());
renew();
