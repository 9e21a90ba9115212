// Builds and reorders a history, and shows the next items as it changes.
import { ask, bar, byId, lively, make, say } from "./common.js";

const FOUND = 50;
let history = [];
let active = -1;
let refresh = () => {};

export async function showRecommend(card) {
  byId("k").value = Math.min(10, card.items);
  byId("k").max = Math.min(card.items, 1000);
  refresh = lively(recommend, 60);
  const search = lively(find, 80);
  byId("search").addEventListener("input", search);
  byId("search").addEventListener("focus", search);
  byId("search").addEventListener("keydown", pick);
  byId("search").addEventListener("blur", () => setTimeout(close, 150));
  for (const name of ["k", "explain", "filters", "most", "per", "diversity", "repeats"]) {
    byId(name).addEventListener("input", refresh);
  }
  byId("of-columns").hidden = card.item_columns.length === 0;
  byId("filters").placeholder = `${card.item_columns[0]} = …`;
  byId("per").append(...card.item_columns.map((name) => make("option", "", name, { value: name })));
  byId("history").addEventListener("keydown", onHistoryKey);
  draw();
}

async function find() {
  const wanted = byId("search").value.trim();
  const { names } = await ask(`/v1/model?names=true&limit=${FOUND}&search=${encodeURIComponent(wanted.slice(0, 200))}`);
  return () => {
    if (document.activeElement !== byId("search")) return;
    active = -1;
    byId("found").replaceChildren(...names.map(option));
    byId("found").hidden = names.length === 0;
    byId("search").setAttribute("aria-expanded", String(names.length > 0));
    if (wanted) mark(0);
    say(names.length ? "" : "No item has this text in its name.");
  };
}

function option(name, place) {
  const item = make("li", "", "", { role: "option", id: `found-${place}`, "aria-selected": "false" });
  item.append(make("bdi", "", name));
  item.addEventListener("mousedown", (event) => {
    event.preventDefault();
    add(name);
  });
  return item;
}

function pick(event) {
  const options = byId("found").children;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.length) mark((active + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
  } else if (event.key === "Enter" && options[active]) {
    event.preventDefault();
    add(options[active].textContent);
  } else if (event.key === "Escape") {
    close();
  }
}

function mark(place) {
  const options = byId("found").children;
  options[active]?.setAttribute("aria-selected", "false");
  active = place;
  options[active]?.setAttribute("aria-selected", "true");
  options[active]?.scrollIntoView({ block: "nearest" });
  byId("search").setAttribute("aria-activedescendant", options[active]?.id ?? "");
}

function close() {
  active = -1;
  byId("found").replaceChildren();
  byId("found").hidden = true;
  byId("search").setAttribute("aria-expanded", "false");
  byId("search").removeAttribute("aria-activedescendant");
}

function add(name) {
  history.push(name);
  byId("search").value = "";
  close();
  draw();
}

function move(from, to) {
  if (to < 0 || to >= history.length) return;
  history.splice(to, 0, ...history.splice(from, 1));
  draw();
  byId("history").children[to].focus();
}

function remove(place) {
  history.splice(place, 1);
  draw();
  (byId("history").children[Math.min(place, history.length - 1)] ?? byId("search")).focus();
}

function onHistoryKey(event) {
  const place = [...byId("history").children].indexOf(event.target.closest("li"));
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.altKey && step) {
    event.preventDefault();
    move(place, place + step);
  } else if (event.key === "Delete" || (event.key === "Backspace" && event.target.tagName === "LI")) {
    event.preventDefault();
    remove(place);
  } else if (step && event.target.tagName === "LI") {
    event.preventDefault();
    byId("history").children[place + step]?.focus();
  }
}

function draw() {
  byId("history").replaceChildren(...history.map(entry));
  byId("empty").hidden = history.length > 0;
  byId("keys").hidden = history.length === 0;
  refresh();
}

function entry(name, place) {
  const item = make("li", "", "", { tabindex: "0" });
  const label = make("bdi", "name", name);
  item.append(label, button("↑", `Move ${name} up`, place === 0, () => move(place, place - 1)));
  item.append(button("↓", `Move ${name} down`, place === history.length - 1, () => move(place, place + 1)));
  item.append(button("✕", `Remove ${name}`, false, () => remove(place)));
  return item;
}

function button(sign, label, disabled, act) {
  const element = make("button", "", sign, { type: "button", "aria-label": label });
  element.disabled = disabled;
  element.addEventListener("click", act);
  return element;
}

async function recommend() {
  const asked = Math.min(Math.max(Math.trunc(Number(byId("k").value)) || 1, 1), Number(byId("k").max));
  const { answers } = await ask("/v1/recommend", { histories: [history], k: asked, ...rules() });
  return () => {
    const { items, note } = answers[0];
    alike();
    byId("next").replaceChildren(...items.map((one) => drawItem(one, items[0].score, items.every((each) => each.score >= 0))));
    const shown = `${items.length} next ${items.length === 1 ? "item" : "items"}`;
    say(note && history.length ? `${shown}; ${note}.` : shown);
  };
}

/** Return the fields of a request that the rules of the page stand for. */
function rules() {
  const filters = byId("filters").value.split("\n").filter((line) => line.trim());
  const column = byId("per").value;
  const most = Math.max(Math.trunc(Number(byId("most").value)) || 1, 1);
  return {
    filters,
    max_per: column ? { [column]: most } : {},
    diversity: Number(byId("diversity").value),
    repeats: byId("repeats").checked,
    explain: byId("explain").checked,
  };
}

/** Show the items most like one, or none. */
async function alike(item) {
  byId("similar-title").hidden = item === undefined;
  byId("similar").replaceChildren();
  if (item === undefined) return;
  byId("similar-title").textContent = `Similar to ${item}`;
  try {
    const { answers } = await ask("/v1/similar", { items: [item], k: 5 });
    byId("similar").replaceChildren(...answers[0].map((one) => drawItem(one, 1, true)));
  } catch (error) {
    say(error.message, true);
  }
}

/** Draw an item. Scores below 0 are logits: the bar then shows the odds relative to the best item. */
function drawItem(one, best, positive) {
  const share = positive ? one.score / (best || 1) : Math.exp(one.score - best);
  const extra = make("button", "add", "+", { type: "button", "aria-label": `Add ${one.item} to the history` });
  extra.addEventListener("click", () => add(one.item));
  const more = make("button", "like", "≈", { type: "button", "aria-label": `Show items similar to ${one.item}` });
  more.addEventListener("click", () => alike(one.item));
  const buttons = make("span", "buttons");
  buttons.append(more, extra);
  const because = one.because?.length ? `because of ${one.because.join(", ")}` : "";
  const note = [one.title, because].filter(Boolean).join(" · ");
  return bar(one.item, one.score.toPrecision(3), share, { note, extra: buttons });
}
