// The front end of a chat (mastra_nb/notebook/chat.py is the other end). A room holds what was
// said, once for each widget; any number of views draw it. Text of a model or a tool becomes DOM
// as text, or as a copy of known elements of inert HTML: never through innerHTML.

const MOST_FILE = 5_000_000;
const MOST_FILES = 8_000_000;
const PATIENCE = 6000;

// DOM.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const PATHS = {
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  attach:
    "M20 11.5l-8.2 8.2a5 5 0 0 1-7.1-7.1l8.5-8.5a3.3 3.3 0 0 1 4.7 4.7l-8.5 8.5a1.7 1.7 0 0 1-2.4-2.4l7.8-7.8",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 13l4.5 4.5L19 7",
  retry: "M20 12a8 8 0 1 1-2.4-5.7M20 3v4.5h-4.5",
  branch: "M7 4v16M7 9h6a4 4 0 0 1 4 4v3M14 13.5l3 3 3-3",
  edit: "M4 20l1-4L16.5 4.5a1.8 1.8 0 0 1 2.6 0l.4.4a1.8 1.8 0 0 1 0 2.6L8 19z",
  add: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  down: "M6 9l6 6 6-6",
  end: "M12 5v14M6 13l6 6 6-6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  file: "M6 3h8l5 5v13H6zM14 3v5h5",
  hand: "M12 3l8 3.5V12c0 4.5-3.3 7.6-8 9-4.7-1.4-8-4.5-8-9V6.5zM12 8v4.5M12 15.6v.2",
  warn: "M12 4l9 16H3zM12 10v4.5M12 17v.2",
};

function icon(name) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "mnb-icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

function iconButton(name, label, onclick, extra = "") {
  return el(
    "button",
    {
      type: "button",
      class: `mnb-iconbutton ${extra}`,
      "aria-label": label,
      title: label,
      onclick,
    },
    icon(name),
  );
}

function button(label, onclick, extra = "", attributes = {}) {
  return el(
    "button",
    { type: "button", class: `mnb-button ${extra}`, onclick, ...attributes },
    label,
  );
}

// HTML that the kernel has made of inert Markdown.

const TAGS = new Set(
  "p strong em s code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 table thead tbody tr th td hr br a span".split(
    " ",
  ),
);

function safe(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const out = document.createDocumentFragment();
  copyInto(out, parsed.body, 0);
  return out;
}

function copyInto(target, source, depth) {
  for (const node of source.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) {
      target.append(node.data);
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      const tag = node.localName;
      if (!TAGS.has(tag) || depth > 60) target.append(node.textContent);
      else if (tag === "pre") target.append(codeBlock(node));
      else target.append(copied(tag, node, depth));
    }
  }
}

function copied(tag, node, depth) {
  const heading = /^h([1-6])$/.exec(tag);
  // A heading of an answer is below those of the notebook.
  const made = el(heading ? `h${Math.min(6, Number(heading[1]) + 2)}` : tag);
  if (heading) made.className = `mnb-h${heading[1]}`;
  if (tag === "a") {
    const url = node.getAttribute("href") ?? "";
    if (/^(https?:\/\/|mailto:)/i.test(url)) {
      made.href = url;
      made.rel = "noopener noreferrer";
      made.target = "_blank";
    }
  }
  if (tag === "ol" && /^\d{1,9}$/.test(node.getAttribute("start") ?? ""))
    made.start = Number(node.getAttribute("start"));
  const align = /^text-align:(left|right|center)$/.exec(node.getAttribute("style") ?? "");
  if (align) made.className = `mnb-${align[1]}`;
  if (node.getAttribute("class") === "mnb-math") made.className = "mnb-math";
  copyInto(made, node, depth + 1);
  return tag === "table" ? el("div", { class: "mnb-scroll", tabindex: 0 }, made) : made;
}

function codeBlock(pre) {
  const text = pre.textContent.replace(/\n$/, "");
  const language = /^language-([\w+#.-]{1,30})$/.exec(
    pre.firstElementChild?.getAttribute("class") ?? "",
  );
  return el(
    "div",
    { class: "mnb-code" },
    el(
      "div",
      { class: "mnb-codehead" },
      el("span", {}, language ? language[1] : "text"),
      copyButton("Copy code", () => text),
    ),
    el("pre", { tabindex: 0 }, el("code", {}, text)),
  );
}

function copyButton(label, text) {
  const made = iconButton("copy", label, async () => {
    await navigator.clipboard.writeText(text());
    made.replaceChildren(icon("check"));
    made.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      made.replaceChildren(icon("copy"));
      made.setAttribute("aria-label", label);
    }, 1500);
  });
  return made;
}

// Words.

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
const compact = (value) => {
  if (value === undefined || value === null) return "";
  if (typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value);
  return Object.entries(value)
    .map(([k, v]) => `${k}=${JSON.stringify(v)}`)
    .join(", ");
};
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const seconds = (s) =>
  s < 0.1
    ? "<0.1 s"
    : s < 10
      ? `${s.toFixed(1)} s`
      : s < 90
        ? `${Math.round(s)} s`
        : `${Math.round(s / 60)} min`;
const dollars = (c) => (c === 0 ? "$0" : c < 0.01 ? `$${c.toPrecision(2)}` : `$${c.toFixed(2)}`);
const bytes = (n) =>
  n < 1000 ? `${n} B` : n < 1e6 ? `${Math.round(n / 1000)} kB` : `${(n / 1e6).toFixed(1)} MB`;

function ago(at) {
  if (!at) return "";
  const minutes = (Date.now() / 1000 - at) / 60;
  if (minutes < 1) return "now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  if (minutes < 60 * 24) return `${Math.floor(minutes / 60)} h ago`;
  return new Date(at * 1000).toLocaleDateString();
}

let counter = 0;
const unique = (name) => `mnb-${name}-${++counter}`;
