// The connection of a page to its server: what state it is in, which key it needs, what goes wrong.
import { events, useKey } from "./live.js";

const AGAIN_MS = 1000;
const UNKNOWN = 401, OTHER_KEY = [UNKNOWN, 403];
const $ = (id) => document.getElementById(id);

/** Show what went wrong; null: nothing. */
export function complain(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

function state(word, name) {
  const place = $("state");
  if (place.textContent !== word) place.textContent = word;
  place.className = name;
}

const keyGiven = () => new Promise((done) => {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key").value);
    done();
  }, { once: true });
});

/** Show events for ever. `begin`: what to do first on each connection. `needsKey`: what to say where another key is needed. */
export async function follow({ begin = async () => {}, show, needsKey }) {
  let isGiven = false;
  for (;;) {
    try {
      await begin();
      for await (const event of events()) {
        if ($("state").className !== "live") complain(null);
        $("key-form").hidden = true;
        state("live", "live");
        show(event);
      }
      throw new Error("The server closed the connection.");
    } catch (error) {
      if (OTHER_KEY.includes(error.status)) {
        state("locked", "lost");
        complain(new Error(isGiven && error.status === UNKNOWN ? `This key is not known. ${needsKey}` : needsKey));
        $("key-form").hidden = false;
        $("key").value = "";
        await keyGiven();
        isGiven = true;
      } else {
        state("no connection", "lost");
        await new Promise((done) => { setTimeout(done, AGAIN_MS); });
      }
    }
  }
}
