// Functions of both parts of the page. Text from users is only ever set as textContent.
let key = "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const byId = (id) => document.getElementById(id);

export function useKey(given) {
  key = given;
}

/** Return the answer of the service; with a body, the request is a POST. */
export async function ask(address, body) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const response = await fetch(address, options).catch(() => {
    throw new Refused(0, "The service does not respond.");
  });
  const answer = await response.json();
  if (!response.ok) throw new Refused(response.status, answer.error.message);
  return answer;
}

/** Return a debounced `task` that also drops every answer except the newest. */
export function lively(task, wait = 120) {
  let timer = 0;
  let newest = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const mine = (newest += 1);
      try {
        const draw = await task();
        if (mine === newest) draw();
      } catch (error) {
        if (mine === newest) say(error.message, true);
      }
    }, wait);
  };
}

/** Make an element; its text is never parsed as HTML. */
export function make(tag, classes = "", text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.className = classes;
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function show(template) {
  byId("main").replaceChildren(byId(template).content.cloneNode(true));
}

export function say(message, wrong = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("wrong", wrong && message !== "");
}

/** Return a name with a bar under it: `share` of the width is filled, and a tick marks `tick`. */
export function bar(name, score, share, { tick = null, note = "", mark = "", extra = null } = {}) {
  const item = make("li");
  const row = make("div", "row");
  const label = make("span", "name");
  label.append(make("bdi", "", name));
  if (note) label.append(make("bdi", "path", note));
  row.append(label);
  if (mark) row.append(make("span", "mark", mark));
  row.append(make("span", "score", score));
  if (extra) row.append(extra);
  const track = make("div", "track", "", { "aria-hidden": "true" });
  const fill = make("div", "fill");
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  track.append(fill);
  if (tick !== null) {
    const line = make("div", "tick");
    line.style.left = `${100 * tick}%`;
    track.append(line);
  }
  item.append(row, track);
  return item;
}
