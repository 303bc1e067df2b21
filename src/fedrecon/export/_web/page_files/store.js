// What this page remembers, in the browser's own storage and nowhere else.

const KEY = "fedrecon";
/** What was stored; what cannot be read counts as nothing. */
export function recall() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(KEY) ?? "null");
  } catch {
    // It is no JSON, or the browser lets the page read no storage.
  }
  const {ratings, text, parts} = kept ?? {};
  const numbers = Object.entries(ratings ?? {}).filter(([, value]) => Number.isFinite(value));
  return {
    ratings: Object.fromEntries(numbers),
    text: typeof text === "string" ? text : "",
    parts: Array.isArray(parts) ? parts : [],
  };
}

/** Stores, for a user who entered nothing no entry at all; returns what is wrong if the browser refuses. */
export function remember(user) {
  try {
    if (!user.text && !Object.keys(user.ratings).length) forget();
    else localStorage.setItem(KEY, JSON.stringify(user));
    return "";
  } catch {
    if (!user.parts.length) return "The browser stores nothing for this page: what you enter is lost when it is closed.";
    // What was entered is worth more than what was made of it, which can be made anew.
    return remember({...user, parts: []}) || "The browser has no room for your part of the model: it is made anew at your next visit.";
  }
}

export function forget() {
  localStorage.removeItem(KEY);
}
