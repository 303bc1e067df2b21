// Rate films and see what is recommended. Ratings are kept by the films' ids: they outlive a model.

import {element, say} from "./elements.js";
import {Part} from "./part.js";
import {remember} from "./store.js";

const SHOWN = 12;

/** Five ratings that every model takes: a model refuses what is beyond its range. */
function starsWithin(ranges) {
  const low = ranges.length ? Math.max(...ranges.map(([least]) => least)) : 1;
  const high = ranges.length ? Math.min(...ranges.map(([, most]) => most)) : 5;
  return [0, 1, 2, 3, 4].map((i) => low + (i * (high - low)) / 4);
}

export function ratings(root, engines, page, user) {
  const names = new Map(); // from an id to what it is shown as
  for (const engine of engines) {
    for (const id of engine.vocabularies[engine.itemField] ?? []) {
      names.set(String(id), page.titles?.[String(id)] ?? `Item ${id}`);
    }
  }
  const rowOf = engines.map(
    (engine) => new Map((engine.vocabularies[engine.itemField] ?? []).map((id, row) => [String(id), row]))
  );
  const inputs = engines.map((engine) => engine.input("rating")).filter(Boolean);
  const scale = inputs.length > 0; // else an item is rated by having it
  const stars = scale ? starsWithin(inputs.map((input) => input.range).filter(Boolean)) : [1];

  const parts = engines.map((engine) => new Part(engine, user.parts));

  const search = element("input", {type: "search", id: "search", autocomplete: "off"});
  const found = element("ul", {id: "found"});
  const own = element("ul", {id: "own"});
  const ownTitle = element("h2", {}, "Your ratings");
  const agreement = element("p", {id: "agreement", class: "soft"});
  const lists = engines.map((_, i) => element("ol", {class: "ranked", id: `top-${i}`}));
  root.replaceChildren(
    element("div", {class: "columns"},
      element("section", {},
        element("label", {for: "search"}, "Search for something that you know"), search, found, ownTitle, own),
      ...engines.map((engine, i) =>
        element("section", {},
          element("h2", {}, engines.length > 1 ? `Recommended by ${page.models[i].label}` : "Recommended to you"),
          lists[i]))),
    ...(engines.length > 1 ? [agreement] : [])
  );

  function rated(id) { return user.ratings[id]; }

  function row(id, place) {
    const group = element("fieldset", {class: "stars"}, element("legend", {}, `Rating of ${names.get(id) ?? id}`));
    stars.forEach((value, i) => {
      const input = element("input", {type: "radio", name: `${place}-${id}`, value: String(value)});
      input.setAttribute("aria-label", scale ? `${i + 1} of 5 stars` : "I have it");
      input.checked = rated(id) === value;
      input.addEventListener("change", () => rate(id, value, place));
      const on = rated(id) !== undefined && rated(id) >= value;
      group.append(element("label", {class: on ? "on" : ""}, input, element("span", {"aria-hidden": "true"}, on ? "★" : "☆")));
    });
    const item = element("li", {class: "item", "data-id": id}, element("span", {}, names.get(id) ?? `Item ${id}, unknown to this model`), group);
    if (place === "own") {
      const button = element("button", {type: "button", "aria-label": `Remove ${names.get(id) ?? id}`}, "Remove");
      button.addEventListener("click", () => { delete user.ratings[id]; changed(); search.focus(); });
      item.append(button);
    }
    return item;
  }

  function rate(id, value, place) {
    const known = Object.keys(user.ratings).filter((x) => names.has(x));
    if (rated(id) === undefined && known.length >= Math.min(...engines.map((e) => e.supportMax))) {
      say("problem", `At most ${known.length} ratings can be used: remove one first.`);
      show();
      return;
    }
    user.ratings[id] = value;
    changed();
    document.querySelector(`input[name="${place}-${CSS.escape(id)}"]:checked`)?.focus();
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = [];
    if (words.length || !Object.keys(user.ratings).length) {
      for (const [id, name] of names) {
        const text = name.toLowerCase();
        if (words.every((word) => text.includes(word))) hits.push(id);
        if (hits.length >= SHOWN) break;
      }
    }
    found.replaceChildren(...hits.map((id) => row(id, "found")));
    if (words.length && !hits.length) found.replaceChildren(element("li", {class: "soft"}, "Nothing has such a name."));
    own.replaceChildren(...Object.keys(user.ratings).map((id) => row(id, "own")));
    ownTitle.textContent = `Your ratings (${Object.keys(user.ratings).length})`;
  }

  /** Shows the lists of all models; beside another list, an item that is on no other is marked. */
  function showLists(recommended) {
    const on = new Map();
    for (const {id} of recommended.flat()) on.set(id, (on.get(id) ?? 0) + 1);
    recommended.forEach((items, i) => lists[i].replaceChildren(...items.map(({id, score}) => {
      const alone = engines.length > 1 && on.get(id) === 1;
      return element("li", {class: alone ? "item alone" : "item", "data-id": id},
        element("span", {}, names.get(id), ...(alone ? [element("em", {class: "soft"}, " on this list only")] : [])),
        element("span", {class: "score"}, score.toFixed(2)));
    })));
    const common = recommended[0].filter(({id}) => on.get(id) === engines.length).length;
    agreement.textContent = `${common} of ${Math.max(...recommended.map((items) => items.length))} items are on all lists.`;
  }

  /** Refuses a stored rating that is not on a model's scale, as after a new version with another one. */
  function checkScale() {
    engines.forEach((engine, i) => {
      const [low, high] = engine.input("rating")?.range ?? [-Infinity, Infinity];
      for (const id of Object.keys(user.ratings)) {
        if (rowOf[i].has(id) && !(rated(id) >= low && rated(id) <= high)) {
          throw new Error(`Your rating of ${names.get(id)}, ${rated(id)}, is outside of the model's scale from ${low} to ${high}: rate it again or remove it.`);
        }
      }
    });
  }

  let asked = 0;
  async function recommend() {
    const now = ++asked;
    const results = [];
    checkScale();
    for (let i = 0; i < engines.length; i++) {
      const engine = engines[i];
      const ids = Object.keys(user.ratings).filter((id) => rowOf[i].has(id));
      const rows = ids.map((id) => rowOf[i].get(id));
      const examples = ids.map((id) => `${id}:${rated(id)}`);
      const start = parts[i].start(examples);
      const given = {[engine.itemField]: rows, rating: ids.map(rated), exclude: rows, weight: ids.map(() => 1), start};
      const result = await engine.run(given, ids.length, ["top_item", "top_score", "local"]);
      if (now !== asked) return; // a newer rating is on its way
      const known = engine.vocabularies[engine.itemField];
      const items = [...result.top_item].map((r, k) => ({id: String(known[r]), score: result.top_score[k]}));
      results.push({...result, items: items.filter(({score}) => score > -Infinity), examples, start});
    }
    showLists(results.map(({items}) => items));
    results.forEach(({examples, start, local}, i) => parts[i].keep(examples, start, local));
    const times = results.map(({milliseconds}) => `${milliseconds.toFixed(1)} ms`);
    const rebuilt = results.flatMap(({examples}, i) => (parts[i].anew && examples.length ? [page.models[i].label] : []));
    user.parts = parts.flatMap((part) => part.stored());
    const problem = remember(user);
    if (problem) say("problem", problem);
    const count = Object.keys(user.ratings).length;
    const anew = rebuilt.length ? ` Your part of ${rebuilt.join(" and of ")} was made anew: the model is another one than at your last visit.` : "";
    say("status", `${count ? `From ${count} ${count === 1 ? "rating" : "ratings"}` : "Without ratings yet"}: reconstructed and ranked ${names.size} items in ${times.join(" and ")}.${anew}`);
  }

  async function refresh() {
    show();
    try { await recommend(); } catch (error) {
      say("status", ""); // what it says is of earlier ratings
      say("problem", error.message);
    }
  }

  function changed() {
    say("problem", remember(user));
    return refresh();
  }

  search.addEventListener("input", show);
  show();
  const stored = () => [`${Object.keys(user.ratings).length} ratings, by item`, ...parts.map((part) => part.words)];
  return {refresh, stored: () => stored().filter(Boolean).join("; ")};
}
