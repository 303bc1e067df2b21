// Starts the page: loads the model, then closes the way out, then lets the user begin.

import {Engine, start} from "./engine.js";
import {element, say} from "./elements.js";
import {ratings} from "./ratings.js";
import {forget, recall} from "./store.js";
import {words} from "./words.js";

async function begin() {
  const runtime = start();
  runtime.catch(() => {}); // a fault is told below, where the runtime is awaited
  const page = await (await fetch("page.json")).json();
  document.getElementById("title").textContent = page.title;
  document.title = page.title;
  // The runtime, which is the largest file, and the models come at the same time.
  const [engines] = await Promise.all([Promise.all(page.models.map((model) => Engine.read(model.folder))), runtime]);
  for (const engine of engines) await engine.open();
  // From here on the page can ask no server for anything: a policy can be tightened and never loosened.
  document.head.append(
    element("meta", {"http-equiv": "Content-Security-Policy", content: "connect-src 'none'; form-action 'none'"})
  );
  const user = recall();
  const root = document.getElementById("content");
  const view = page.kind === "words" ? words(root, engines[0], page, user) : ratings(root, engines, page, user);
  const facts = document.getElementById("facts");
  const show = () => facts.replaceChildren(
    element("li", {}, `In this browser's storage, for this page only: ${view.stored()}.`),
    element("li", {}, "In the page's memory, gone when it is closed: the model."),
    element("li", {}, "On a server: nothing. Since the model was loaded the browser refuses this page all connections."),
  );
  document.getElementById("notice").textContent = engines.map((e) => e.description.data_notice).filter(Boolean)[0] ?? "";
  document.getElementById("model").textContent = engines
    .map((e) => `${e.description.run}, round ${e.description.round}, ${e.description.precision}, SHA-256 of model.json ${e.digest ?? "not checked: this page has no secure connection"}`)
    .join("; ");
  document.getElementById("try").addEventListener("click", async () => {
    try {
      await fetch(`page.json?${Math.random()}`);
      say("outcome", "It was sent. This should not be possible: do not trust this page.");
    } catch {
      say("outcome", "The browser refused: nothing can leave this page.");
    }
  });
  document.getElementById("forget").addEventListener("click", () => {
    forget();
    location.reload();
  });
  root.hidden = false;
  document.getElementById("proof").hidden = false;
  await view.refresh();
  show();
  document.addEventListener("input", show);
  document.addEventListener("click", () => setTimeout(show));
  document.documentElement.dataset.ready = "true";
  setTimeout(async () => { // the optimiser holds the page up: not before the first list is on the screen
    for (const engine of engines) await engine.optimise();
    document.documentElement.dataset.optimised = "true";
  }, 1000);
}

begin().catch((error) => {
  say("status", "");
  say("problem", `The model cannot be used: ${error.message}. What you entered before is still stored.`);
});
