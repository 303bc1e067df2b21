// Write, and see which words may follow: by the model alone, and with what it learnt of your own words.

import {bucketOf} from "./blake2b.js";
import {element, say} from "./elements.js";
import {Part} from "./part.js";
import {remember} from "./store.js";

const BEGIN = 1, END = 2, FIRST = 3, SHOWN = 6;

// The same words as `pieces` and `whitespace` of fedrecon.datasets.text make, by which the model was trained: with all that
// Unicode joins to the letter before it, such as vowel signs and accents, and with Python's white space.
const LETTER = "\\p{L}\\p{N}_";
const JOINED = "(?![\\u0600-\\u0605\\u06dd\\u070f\\u0890\\u0891\\u08e2\\u200b\\u{110bd}\\u{110cd}])"
  + "[\\p{Grapheme_Extend}\\p{Mc}\\p{Emoji_Modifier}\\p{Cf}]";
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = `[${LETTER}](?:[${LETTER}]|${JOINED})*`;
const PIECES = new RegExp(`${WORD}(?:['’]${WORD})*|[^${LETTER}${SPACE}]+`, "gu");
const WORDS = new RegExp(`[^${SPACE}]+`, "gu");

/** The words of a text, by the name of the run's tokenizer. */
export function tokensOf(text, tokenizer) {
  return (tokenizer === "pieces" ? text.toLowerCase().match(PIECES) : text.match(WORDS)) ?? [];
}

export function words(root, engine, page, user) {
  const names = engine.vocabularies.word;
  const rows = new Map(names.slice(FIRST).map((word, i) => [word, i + FIRST]));
  const length = page.length;
  const tokens = (text) => tokensOf(text, page.tokenizer);
  const rowOf = (word) => rows.get(word) ?? 0;
  const localOf = (word) => (rows.has(word) ? -1 : bucketOf(word, page.buckets));
  const idOf = (word) => rows.get(word) ?? names.length + bucketOf(word, page.outputs);
  const remembers = engine.input("own_word") !== undefined; // the model names the user's own words itself

  const part = new Part(engine, user.parts);

  const history = element("textarea", {id: "history", spellcheck: "false"}, user.text ?? "");
  const learn = element("button", {type: "button", class: "main", id: "learn"}, "Learn from it");
  const prompt = element("input", {type: "text", id: "prompt", autocomplete: "off", spellcheck: "false"});
  const general = element("div", {class: "words", id: "general"});
  const personal = element("div", {class: "words", id: "personal"});
  root.replaceChildren(
    element("div", {class: "columns"},
      element("section", {},
        element("label", {for: "history"}, "Sentences of yours, one a line"), history, learn,
        element("p", {class: "soft"}, "They stay in this browser. The model learns the words that only you use.")),
      element("section", {},
        element("label", {for: "prompt"}, "Write here"), prompt,
        element("h2", {}, "With your words"), personal,
        element("h2", {}, "Without them"), general))
  );

  function support() {
    const lines = history.value.split("\n").map(tokens).filter((line) => line.length);
    const kept = lines.slice(0, engine.supportMax).map((line) => line.slice(0, length));
    const given = {word: [], bucket: [], target: [], own_word: [], own_target: []};
    const numbers = new Map(); // of words that are not shared, as the text first has them, from 1
    const numberOf = (word) => {
      if (rows.has(word)) return 0;
      if (!numbers.has(word)) numbers.set(word, numbers.size + 1);
      return numbers.get(word);
    };
    for (const line of kept) {
      for (let t = 0; t < length; t++) {
        const before = t ? line[t - 1] : null;
        given.word.push(t === 0 ? BEGIN : t <= line.length ? rowOf(before) : 0);
        given.bucket.push(t === 0 || t > line.length ? -1 : localOf(before));
        given.target.push(t < line.length ? idOf(line[t]) : t === line.length ? END : 0);
        given.own_word.push(t === 0 || t > line.length ? 0 : numberOf(before));
        given.own_target.push(t < line.length ? numberOf(line[t]) : 0);
      }
    }
    const examples = kept.map((line) => line.join(" "));
    return {given, examples, numbers, size: kept.length, left: lines.length - kept.length, said: lines.flat()};
  }

  function query(numbers) {
    const line = [null, ...tokens(prompt.value)].slice(-length);
    const given = {query_word: [], query_bucket: [], query_own_word: []};
    for (let t = 0; t < length; t++) {
      const word = line[t];
      given.query_word.push(t >= line.length ? 0 : word === null ? BEGIN : rowOf(word));
      given.query_bucket.push(t >= line.length || word === null ? -1 : localOf(word));
      // A word that the user's text does not have gets a number that none of its words has.
      const own = t < line.length && word !== null && !rows.has(word);
      given.query_own_word.push(own ? numbers.get(word) ?? numbers.size + 1 : 0);
    }
    return {given, last: line.length - 1};
  }

  function likeliest(scores, last, own) {
    const classes = names.length + page.outputs;
    const row = scores.subarray(last * classes, (last + 1) * classes);
    const highest = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = Array.from(row, (x, i) => (i < END ? 0 : Math.exp(x - highest)));
    const sum = powers.reduce((a, b) => a + b, 0);
    const choices = [];
    let other = 0;
    powers.forEach((p, i) => {
      const name = i === END ? "(end of sentence)" : i < names.length ? names[i] : own.get(i);
      if (name === undefined) other += p;
      else if (i >= END) choices.push([name, p / sum]);
    });
    choices.push(["(another word)", other / sum]);
    return choices.sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  }

  /** The same of a model whose predictions are logarithms of probabilities, those of the user's own words last. */
  function likeliestOf(result, last, numbers) {
    const classes = names.length + page.outputs;
    const leaf = engine.leaf("1/own_word");
    const width = classes + leaf.size;
    const p = Array.from(result.prediction.subarray(last * width, (last + 1) * width), Math.exp);
    const words = [...numbers.keys()];
    const choices = [["(end of sentence)", p[END]]];
    for (let i = FIRST; i < names.length; i++) choices.push([names[i], p[i]]);
    let other = p.slice(names.length, classes).reduce((a, b) => a + b, 0);
    for (let i = 0; i < leaf.size; i++) {
      const number = result.local[leaf.start + i]; // 0 for a free place, else one above the ids of shared words
      if (!number) continue;
      choices.push([words[number - names.length], p[classes + i]]);
      other -= p[classes + i];
    }
    choices.push(["(another word)", Math.max(other, 0)]);
    return choices.sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  }

  function shown(box, choices) {
    box.replaceChildren(...choices.map(([word, p]) => {
      const button = element("button", {type: "button"}, `${word} ${(100 * p).toFixed(1)}%`);
      if (word.startsWith("(")) button.disabled = true;
      button.addEventListener("click", () => {
        prompt.value = `${prompt.value.trimEnd()} ${word} `.trimStart();
        prompt.focus();
        changed();
      });
      return button;
    }));
  }

  let asked = 0;
  async function changed() {
    const now = ++asked;
    try {
      const {given, examples, numbers, size, left, said} = support();
      const asking = query(numbers);
      const own = new Map();
      const counts = new Map();
      for (const word of said) if (!rows.has(word)) counts.set(word, (counts.get(word) ?? 0) + 1);
      for (const [word] of [...counts].sort((a, b) => a[1] - b[1])) own.set(idOf(word), word);
      const alone = await engine.run(asking.given, 0, ["prediction", "local"]);
      const start = part.start(examples);
      const mine = await engine.run({...given, ...asking.given, start}, size, ["prediction", "local"]);
      if (now !== asked) return;
      let problem = left > 0 ? `Only the first ${size} sentences are used: the model takes no more.` : "";
      if (history.value === (user.text ?? "")) { // text that was not yet learnt from is not stored
        part.keep(examples, start, mine.local);
        user.parts = part.stored();
        problem = remember(user) || problem;
      }
      if (remembers) {
        shown(general, likeliestOf(alone, asking.last, new Map()));
        shown(personal, likeliestOf(mine, asking.last, numbers));
      } else {
        shown(general, likeliest(alone.prediction, asking.last, new Map()));
        shown(personal, likeliest(mine.prediction, asking.last, own));
      }
      const anew = part.anew && size ? " Your part was made anew: the model is another one than at your last visit." : "";
      say("status", `Reconstructed from ${size} ${size === 1 ? "sentence" : "sentences"} and predicted in ${mine.milliseconds.toFixed(0)} ms.${anew}`);
      say("problem", problem);
    } catch (error) {
      say("problem", error.message);
    }
  }

  learn.addEventListener("click", () => {
    user.text = history.value;
    say("problem", remember(user)); // before the model runs, so that no fault of it loses the text
    changed();
  });
  prompt.addEventListener("input", changed);
  const stored = () => [`${(user.text ?? "").length} characters of your text`, part.words];
  return {refresh: changed, stored: () => stored().filter(Boolean).join("; ")};
}
