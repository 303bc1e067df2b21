// Runs the script of a report page on a small stand-in for a browser's DOM.
//
// Reads {page, script, steps} as JSON from the standard input: the page as nested [name, attributes, children], the
// script's text, and what a user does. Writes what the page shows at the start and after each step.
"use strict";
const vm = require("node:vm");

class Node {
  constructor(name) {
    Object.assign(this, { name, attributes: {}, children: [], listeners: {}, style: {}, parent: null });
    // Widths in pixels that a browser would find out.
    Object.assign(this, { clientWidth: 800, offsetWidth: 100 });
  }
  setAttribute(key, value) { this.attributes[key] = String(value); }
  getAttribute(key) { return this.attributes[key] ?? null; }
  get hidden() { return "hidden" in this.attributes; }
  set hidden(value) { if (value) this.attributes.hidden = ""; else delete this.attributes.hidden; }
  get dataset() {
    const entries = Object.entries(this.attributes).filter(([key]) => key.startsWith("data-"));
    return Object.fromEntries(entries.map(([key, value]) => [key.slice(5), value]));
  }
  get classList() {
    const names = () => (this.attributes.class || "").split(" ").filter(Boolean);
    return {
      contains: (name) => names().includes(name),
      toggle: (name, on) => {
        this.attributes.class = [...names().filter((other) => other !== name), ...(on ? [name] : [])].join(" ");
      },
    };
  }
  get value() {
    const options = this.all((node) => node.name === "option");
    return this.chosen ?? (options.length ? options[0].attributes.value : "");
  }
  get textContent() { return this.children.map((x) => (typeof x === "string" ? x : x.textContent)).join(""); }
  set textContent(text) { this.replaceChildren(...(text === "" ? [] : [String(text)])); }
  append(...nodes) { this.insert(this.children.length, nodes); }
  prepend(...nodes) { this.insert(0, nodes); }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  insert(at, nodes) {
    for (const node of nodes) if (node instanceof Node) node.parent = this;
    this.children.splice(at, 0, ...nodes);
  }
  all(test) {
    const below = this.children.filter((x) => x instanceof Node).flatMap((x) => x.all(test));
    return test(this) ? [this, ...below] : below;
  }
  querySelectorAll(selector) {
    const match = /^(?:\[([\w-]+)\]|([\w-]*)(?:\.([\w-]+))?)$/.exec(selector);
    if (!match) throw new Error(`the stand-in does not know the selector ${selector}`);
    const [, attribute, name, kind] = match;
    return this.all((node) => (attribute
      ? attribute in node.attributes
      : (!name || node.name === name) && (!kind || node.classList.contains(kind))));
  }
  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }
  addEventListener(kind, listener) { (this.listeners[kind] ||= []).push(listener); }
  getBoundingClientRect() { return { left: 0, top: 0, width: 800, height: 400 }; }
  happen(kind, event = {}) {
    if (!this.listeners[kind]) throw new Error(`nothing listens to ${kind} of ${this.name}`);
    for (const listener of this.listeners[kind]) listener(event);
  }
}

const build = (tree) => {
  if (typeof tree === "string") return tree;
  const [name, attributes, children] = tree;
  const node = new Node(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value ?? "");
  node.append(...children.map(build));
  return node;
};

const { page, script, steps } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const root = build(page);
const byId = (id) => root.all((node) => node.attributes.id === id)[0] ?? null;
const document = {
  getElementById: byId,
  createElement: (name) => new Node(name),
  createElementNS: (space, name) => new Node(name),
  querySelector: (selector) => root.querySelector(selector),
  querySelectorAll: (selector) => root.querySelectorAll(selector),
};
const browser = new Node("window");

const chart = (id) => {
  const section = byId(id), place = section.querySelector(".chart");
  const tip = place.querySelector(".tip");
  return {
    hidden: section.hidden,
    menus: section.querySelectorAll("option").map((node) => node.textContent),
    message: place.querySelectorAll("p").map((node) => node.textContent),
    lines: place.querySelectorAll(".series").map((node) => [node.style.stroke ?? node.attributes.style, node.attributes.d]),
    bands: place.querySelectorAll(".band").length,
    texts: place.querySelectorAll("text").map((node) => node.textContent),
    tip: tip && !tip.hidden ? tip.children.map((node) => node.textContent) : null,
  };
};
const state = () => ({
  curves: chart("curves"),
  clients: chart("clients"),
  legend: byId("legend").querySelectorAll("button").map((node) => [node.textContent, node.attributes["aria-pressed"]]),
  unmarked: root.querySelectorAll("[data-method]").filter((node) => !node.querySelector(".dot")).length,
  toggle: byId("all-settings") && [byId("all-settings").hidden, byId("all-settings").textContent],
  few: root.querySelector("table.settings").classList.contains("few"),
});
const actions = {
  choose: (id, menu, value) => {
    const select = byId(id).querySelectorAll("select")[menu];
    select.chosen = String(value);
    select.happen("change");
  },
  press: (method) => byId("legend").querySelectorAll("button")[method].happen("click"),
  point: (id, x) => byId(id).querySelector("svg").happen("pointermove", { clientX: x }),
  leave: (id) => byId(id).querySelector("svg").happen("pointerleave"),
  toggle: () => byId("all-settings").happen("click"),
  resize: () => browser.happen("resize"),
};

vm.runInNewContext(script, { document, window: browser });
const states = [state()];
for (const [action, ...given] of steps) {
  actions[action](...given);
  states.push(state());
}
process.stdout.write(JSON.stringify(states));
