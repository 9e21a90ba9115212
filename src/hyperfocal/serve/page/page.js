// Starts the page: asks which job is served and shows its part of the page. Nothing is stored, not even the key.
import { showClassify } from "./classify.js";
import { showRecommend } from "./recommend.js";
import { ask, byId, Refused, say, show, useKey } from "./common.js";

const SHOWN = { classify: showClassify, recommend: showRecommend };

async function start() {
  try {
    const card = await ask("/v1/model");
    describe(card);
    byId("main").className = "two";
    show(`for-${card.job}`);
    await SHOWN[card.job](card);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey();
    else say(error.message, true);
  }
}

function describe(card) {
  const many = (number, word) => `${number.toLocaleString("en")} ${word}`;
  const what = card.job === "classify" ? many(card.labels, "labels") : many(card.items, "items");
  byId("what").textContent = `${card.job} · ${card.run} · ${what}`;
  byId("version").textContent = ` · version ${card.version}`;
  document.title = `${card.run} · hyperfocal`;
}

function askForKey() {
  show("for-key");
  byId("key").focus();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value);
    say("");
    start().then(() => byId("key") && say("This key is wrong.", true));
  });
}

start();
