
// The page to rate atoms: one at a time, answers that are saved from here.

const items = data.details;
const answers = items.map(() => ({ rating: null, description: "" }));
const form = byId("rating");
let current = 0;
let saved = true;

function show(item) {
  current = item;
  const detail = items[item];
  const atom = view.kind === "text" ? null : shape("atoms", item);
  byId("item-title").textContent = `Atom ${item + 1} of ${items.length}`;
  byId("item").replaceChildren(
    atomLayout(
      atom ? [shapeOf(atom, `Shape of atom ${item + 1}`)] : [],
      placesOf(detail, atom),
      [
        heading("Codes where it is active, largest as 1"),
        histogramFigure(detail.histogram, `Histogram of the codes of atom ${item + 1}`, false),
      ],
    ),
  );
  form.elements.rating.value = answers[item].rating ?? "";
  form.elements.description.value = answers[item].description;
  byId("previous").disabled = item === 0;
  byId("next").disabled = item === items.length - 1;
  showProgress();
}

function showProgress() {
  const rated = answers.filter((answer) => answer.rating !== null).length;
  byId("progress").textContent = `${rated} of ${items.length} rated`;
}

function note() {
  const { rating, description } = form.elements;
  answers[current] = {
    rating: rating.value ? Number(rating.value) : null,
    description: description.value,
  };
  saved = false;
  showProgress();
}

function go(item) {
  show(item);
  byId("item-title").focus();
}

/* Answers in and out */

function rows() {
  const rater = byId("rater").value;
  return answers.map((answer, i) => ({ study: data.study, rater, item: i + 1, ...answer }));
}

function csv(records) {
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const lines = [Object.keys(records[0]), ...records.map(Object.values)];
  return lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
}

function save(content, type, extension) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: url, download: `answers-${data.study}.${extension}` }).click();
  // Not before the browser has begun to read it.
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  saved = true;
  say(`Saved as answers-${data.study}.${extension}, where this browser puts downloads.`);
}

function say(words) {
  byId("message").textContent = words;
}

async function load(file) {
  let records;
  try {
    records = JSON.parse(await file.text());
  } catch {
    say(`${file.name} is not JSON.`);
    return;
  }
  if (!Array.isArray(records) || records.some((record) => record?.study !== data.study)) {
    say(`${file.name} has no answers to this page.`);
    return;
  }
  for (const { rater, item, rating, description } of records) {
    answers[item - 1] = { rating, description };
    byId("rater").value = rater;
  }
  say(`Answers of ${file.name} are here again.`);
  const open = answers.findIndex((answer) => answer.rating === null);
  show(open === -1 ? 0 : open);
}

form.addEventListener("input", note);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (current < items.length - 1) go(current + 1);
});
byId("previous").addEventListener("click", () => go(current - 1));
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=radio]), textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-5]$/.test(event.key)) {
    form.elements.rating.value = event.key;
    note();
  }
});
byId("save-csv").addEventListener("click", () => save(csv(rows()), "text/csv", "csv"));
byId("save-json").addEventListener("click", () => save(JSON.stringify(rows(), null, 1), "application/json", "json"));
byId("load").addEventListener("change", (event) => {
  if (event.target.files.length) load(event.target.files[0]);
});
window.addEventListener("beforeunload", (event) => {
  if (!saved) event.preventDefault();
});

show(0);
