// Elements are made of text alone: nothing that a user enters or a file holds is read as markup.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Puts words into the status or the problem; no words hide a problem. */
export function say(id, text) {
  const place = document.getElementById(id);
  place.textContent = text;
  if (id === "problem") place.hidden = !text;
}
