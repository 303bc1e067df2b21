// What this page remembers, in the browser's own storage and nowhere else.

const KEY = "fedrecon";

/** What was stored; what cannot be read counts as nothing. */
export function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return {ratings: {}, text: "", ...(kept && typeof kept === "object" ? kept : {})};
  } catch {
    return {ratings: {}, text: ""};
  }
}

/** Stores; returns what is wrong if the browser refuses. */
export function remember(user) {
  try {
    localStorage.setItem(KEY, JSON.stringify(user));
    return "";
  } catch {
    return "The browser stores nothing for this page: what you enter is lost when it is closed.";
  }
}

export function forget() {
  localStorage.removeItem(KEY);
}
