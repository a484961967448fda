// Keys, the remembered way of shading, and the line that says how far the index is. Pages are complete without it.
"use strict";

const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const items = all("[data-item]");
const help = one("#help");
let selected = -1;

function follow(selector) {
  const link = one(selector);
  if (link) link.click();
}

// Next or previous item of the page; on a page without items, the next or previous page.
function move(step) {
  if (!items.length) return follow(step > 0 ? "a[rel=next]" : "a[rel=prev]");
  items[selected]?.classList.remove("selected");
  selected = Math.min(Math.max(selected + step, 0), items.length - 1);
  items[selected].classList.add("selected");
  items[selected].querySelector("a").focus({ preventScroll: true });
  items[selected].scrollIntoView({ block: "nearest", inline: "nearest" });
}

function shade(name) {
  const choice = one(`#shade-${name}`);
  if (!choice) return;
  choice.checked = true;
  try { sessionStorage.setItem("shade", name); } catch { /* storage may be switched off */ }
}

function point(token) {
  one(".token.current")?.classList.remove("current");
  token.classList.add("current");
  one("#figures").textContent = token.title;
}

function walk(step) {
  const tokens = all(".as-tokens .token");
  if (!tokens.length || one("#shade-none").checked) return;
  const now = tokens.indexOf(one(".token.current"));
  const next = tokens[Math.min(Math.max(now + step, 0), tokens.length - 1)];
  point(next);
  next.scrollIntoView({ block: "nearest" });
}

function foldAll() {
  const folds = all("main details");
  const open = folds.some((fold) => !fold.open);
  folds.forEach((fold) => { fold.open = open; });
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("a[rel=next]"),
  p: () => follow("a[rel=prev]"),
  g: () => follow("#group"),
  l: () => follow("#home"),
  r: () => location.reload(),
  f: foldAll,
  0: () => shade("none"),
  1: () => shade("advantage"),
  2: () => shade("ratio"),
  3: () => shade("logprob"),
  4: () => shade("entropy"),
  ArrowLeft: () => walk(-1),
  ArrowRight: () => walk(1),
  "?": () => help.showModal(),
  "/": () => (one("#search") ? one("#search").focus() : follow("#home")),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=radio]), select");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});
document.addEventListener("mouseover", (event) => {
  if (event.target.matches(".as-tokens .token")) point(event.target);
});
one("#help-button").addEventListener("click", () => help.showModal());
all("[name=shade]").forEach((choice) => choice.addEventListener("change", () => shade(choice.value)));
try { shade(sessionStorage.getItem("shade") ?? "none"); } catch { /* as above */ }

async function watch() {
  if (document.hidden) return;
  try {
    const status = await (await fetch("/status")).json();
    one("#status").textContent = status.progress;
    one("#reload").hidden = ["", String(status.generation)].includes(document.body.dataset.generation);
  } catch {
    one("#status").textContent = "the viewer does not answer";
  }
}
setInterval(watch, 2000);
