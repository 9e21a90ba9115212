// Classifies the text as it is typed: labels with scores and thresholds, and the words that mattered most.
import { ask, bar, byId, lively, make, say } from "./common.js";

const TOP = 12;

export function showClassify(card) {
  const inputs = (card.reading?.columns ?? []).filter((one) => ["text", "field", "vector"].includes(one.use));
  const rows = card.matrix;
  if (rows || inputs.some((one) => one.use !== "text")) {
    showObjects(rows ? "rows" : "texts", card.example);
    return;
  }
  if (card.single) { // one label per text: there is no threshold to choose
    document.querySelector(".control").hidden = true;
    byId("labels-title").textContent = "Class";
    byId("decided").textContent = "The class appears as you type.";
  }
  const refresh = lively(classify);
  byId("text").addEventListener("input", refresh);
  byId("policy").addEventListener("change", () => {
    byId("own").hidden = byId("policy").value !== "own";
    refresh();
  });
  byId("own").addEventListener("input", refresh);
  byId("text").focus();
  if (byId("text").value) refresh();
}

/** Let the box hold one document as JSON: an object with columns, or a row of a feature matrix. */
function showObjects(field, example) {
  byId("text-title").textContent = field === "rows" ? "Row" : "Document";
  byId("text").placeholder = JSON.stringify(example);
  byId("text").value = JSON.stringify(example);
  document.querySelector(".control").hidden = true;
  const refresh = lively(async () => {
    const request = { [field]: [JSON.parse(byId("text").value)], top: TOP };
    const { answers } = await ask("/v1/classify", request);
    return () => draw(byId("text").value, answers[0]);
  });
  byId("text").addEventListener("input", refresh);
  byId("text").focus();
  refresh();
}

async function classify() {
  const text = byId("text").value;
  const request = { texts: [text], threshold: threshold(), top: TOP, explain: true };
  const { answers } = await ask("/v1/classify", request);
  return () => draw(text, answers[0]);
}

function threshold() {
  const policy = byId("policy").value;
  if (policy !== "own") return policy;
  const own = Number(byId("own").value);
  return Number.isFinite(own) ? Math.min(Math.max(own, 0), 1) : 0.5;
}

function draw(text, response) {
  const answer = text.trim() ? response : {}; // an empty box is no question
  drawDecided(text, answer);
  const scores = answer.scores ?? [];
  byId("scores").replaceChildren(...scores.map(drawScore));
  byId("legend").hidden = !scores.some((one) => one.threshold !== null);
  drawWords(text, answer);
  drawNameWords(answer);
}

/** Return the name of a label: the end of its path, if it has one. */
const nameOf = (one) => (one?.path ? one.path.split(" > ").pop() : one?.label);

function drawDecided(text, answer) {
  const labels = answer.labels ?? [];
  const chips = labels.map((label) => {
    const chip = make("span", "chip");
    chip.append(make("bdi", "", nameOf(answer.scores.find((one) => one.label === label)) ?? label));
    return chip;
  });
  const empty = !text.trim();
  const none = empty ? "Labels appear as you type." : "No label exceeds its threshold.";
  byId("decided").replaceChildren(...(chips.length ? chips : [none]));
  const decided = `${labels.length} ${labels.length === 1 ? "label" : "labels"} decided`;
  say(empty ? "" : answer.note ? `${decided}; ${answer.note}.` : decided);
}

function drawScore(one) {
  const note = one.path && nameOf(one) !== one.label ? `${one.path} · ${one.label}` : (one.path ?? "");
  const options = { tick: one.threshold, note, mark: one.decided ? "decided" : "" };
  const item = bar(nameOf(one), one.score.toFixed(3), one.score, options);
  item.classList.toggle("yes", one.decided);
  if (one.threshold !== null) item.append(make("span", "hidden", `threshold ${one.threshold.toFixed(3)}`));
  return item;
}

/** Show the text, with words that support its best label shaded and words against it underlined. */
function drawWords(text, answer) {
  const words = answer.words ?? [];
  byId("words").hidden = byId("words-title").hidden = words.length === 0;
  if (!words.length) return;
  byId("words-title").replaceChildren("Words for and against ", make("bdi", "", nameOf(answer.scores[0])));
  const largest = Math.max(...words.map((word) => Math.abs(word.effect)));
  const spans = words.flatMap((word) => word.places.map(([start, end]) => ({ start, end, effect: word.effect })));
  spans.sort((one, other) => one.start - other.start);
  const letters = Array.from(text); // places count code points, as Python does
  const parts = [];
  let done = 0;
  for (const { start, end, effect } of spans) {
    parts.push(letters.slice(done, start).join(""), shade(letters.slice(start, end).join(""), effect, largest));
    done = end;
  }
  byId("words").replaceChildren(...parts, letters.slice(done).join(""));
}

/** List the words of the text that the best label's name has. */
function drawNameWords(answer) {
  const words = answer.name_words ?? [];
  byId("name-words").hidden = words.length === 0;
  if (!words.length) return;
  const listed = words.flatMap((word, place) => [place ? ", " : "", make("bdi", "", word)]);
  byId("name-words").replaceChildren("In the label’s name: ", ...listed);
}

function shade(word, effect, largest) {
  const mark = make("mark", effect < 0 ? "against" : "", word);
  mark.title = `log-odds ${effect > 0 ? "+" : "−"}${Math.abs(effect).toFixed(2)}`;
  if (effect > 0) {
    const strength = Math.round(10 + (45 * effect) / largest);
    mark.style.background = `color-mix(in srgb, var(--accent) ${strength}%, transparent)`;
  }
  return mark;
}
