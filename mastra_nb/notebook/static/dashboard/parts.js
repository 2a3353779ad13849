// What the dashboard is made of: DOM without markup, forms from JSON schemas, traces. It is
// prepended to dashboard.js as text. Whatever comes from outside becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = [
  "#1976d2",
  "#e07b00",
  "#2e8b57",
  "#8e44ad",
  "#c2185b",
  "#00838f",
  "#7a8a00",
  "#6d4c41",
];
const WORDS = {
  done: "done",
  running: "running",
  suspended: "waits",
  failed: "failed",
  cancelled: "stopped",
  ok: "done",
  error: "failed",
};

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== ""),
  );
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function button(label, onclick, kind = "", attributes = {}) {
  return el(
    "button",
    { type: "button", class: `mnb-button ${kind}`, onclick, ...attributes },
    label,
  );
}

let lastId = 0;
function newId() {
  return `mnb-d${++lastId}`;
}

// words.

const number = (n) => Math.round(n).toLocaleString("en");
const compact = (n) =>
  n < 10000
    ? number(n)
    : Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(n);

function money(value) {
  if (value === null || value === undefined) return "no price";
  if (!value) return "$0";
  return value < 0.01
    ? `$${value.toPrecision(2)}`
    : `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

function time(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 90 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

function ago(at) {
  const past = Math.max(0, Date.now() / 1000 - at);
  if (past < 60) return "just now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString("en", {
    day: "numeric",
    month: "short",
    year: "numeric",
  });
}

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function status(name) {
  return el("span", { class: "mnb-status", "data-status": name }, WORDS[name] ?? name);
}

// states of a panel.

function empty(title, hint) {
  return el(
    "div",
    { class: "mnb-state" },
    el("p", { class: "mnb-statetitle" }, title),
    el("p", { class: "mnb-quiet" }, hint),
  );
}

function failed(error, retry) {
  return el(
    "div",
    { class: "mnb-state", role: "alert" },
    el("p", { class: "mnb-statetitle mnb-bad" }, error.message),
    error.hint ? el("p", { class: "mnb-quiet" }, error.hint) : null,
    retry ? button("Try again", retry) : null,
  );
}

function skeleton(rows = 6) {
  return el(
    "div",
    { class: "mnb-skeleton", role: "status", "aria-label": "Loading" },
    ...Array.from({ length: rows }, () => el("span")),
  );
}

// forms.

function resolved(schema, root, depth = 0) {
  if (!schema || typeof schema !== "object" || depth > 8) return {};
  if (typeof schema.$ref === "string" && schema.$ref.startsWith("#/")) {
    const found = schema.$ref
      .slice(2)
      .split("/")
      .reduce((at, key) => (at && Object.hasOwn(at, key) ? at[key] : undefined), root);
    return resolved({ ...found, ...schema, $ref: undefined }, root, depth + 1);
  }
  const some = (schema.anyOf ?? schema.oneOf ?? []).filter((each) => each.type !== "null");
  if (some.length === 1)
    return resolved({ ...schema, ...some[0], anyOf: undefined, oneOf: undefined }, root, depth + 1);
  if (schema.allOf?.length === 1)
    return resolved({ ...schema, ...schema.allOf[0], allOf: undefined }, root, depth + 1);
  return schema;
}

class Wrong extends Error {}

// A field is {node, read}: read gives the value, undefined for none, and throws what is wrong.
function field(given, root, { label, required = false, value, depth = 0 }) {
  const schema = resolved(given, root);
  const name = schema.title ?? label;
  const start = value !== undefined ? value : schema.default;
  const type = Array.isArray(schema.type) ? schema.type.find((t) => t !== "null") : schema.type;
  if (schema.enum) return choiceField(schema.enum, name, schema, required, start);
  if (type === "boolean") return flagField(name, schema, required, start);
  if (type === "object" && schema.properties && depth < 5)
    return objectField(schema, root, name, required, start, depth);
  if (type === "integer" || type === "number")
    return numberField(type, name, schema, required, start);
  if (type === "string") return textField(name, schema, required, start);
  if (type === "array" && resolved(schema.items, root).type === "string")
    return listField(name, schema, required, start);
  return jsonField(name, schema, required, start);
}

function labelled(name, schema, required, input, hint) {
  const id = newId();
  const said = [schema.description, hint].filter(Boolean).join(" · ");
  const wrong = el("p", { class: "mnb-wrong", id: `${id}-wrong`, role: "alert" });
  fill(
    input,
    { id, "aria-describedby": `${id}-about ${id}-wrong`, "aria-required": required || null },
    [],
  );
  const node = el(
    "div",
    { class: "mnb-field" },
    el(
      "label",
      { for: id },
      name,
      required ? el("span", { class: "mnb-quiet" }, " (required)") : null,
    ),
    said ? el("p", { class: "mnb-quiet", id: `${id}-about` }, said) : null,
    input,
    wrong,
  );
  const checked = (read) => () => {
    wrong.textContent = "";
    input.removeAttribute("aria-invalid");
    try {
      return read();
    } catch (error) {
      wrong.textContent = error.message;
      input.setAttribute("aria-invalid", "true");
      if (error instanceof Wrong && !error.input) error.input = input;
      throw error;
    }
  };
  return { node, checked };
}

function need(required, name) {
  if (required) throw new Wrong(`${name} is needed`);
  return undefined;
}

function textField(name, schema, required, start) {
  const long = (schema.maxLength ?? 0) > 200 || String(start ?? "").length > 80;
  const input = el(long ? "textarea" : "input", { class: "mnb-input", rows: long ? 4 : null });
  input.value = start ?? "";
  const { node, checked } = labelled(name, schema, required, input);
  const read = checked(() => {
    const text = input.value;
    if (!text && start === undefined) return need(required, name);
    if (schema.minLength && text.length < schema.minLength)
      throw new Wrong(`at least ${schema.minLength} characters`);
    if (schema.maxLength && text.length > schema.maxLength)
      throw new Wrong(`at most ${schema.maxLength} characters`);
    return text;
  });
  return { node, read };
}

function numberField(type, name, schema, required, start) {
  const input = el("input", { class: "mnb-input mnb-short", inputmode: "decimal" });
  input.value = start ?? "";
  const limits = [
    schema.minimum !== undefined ? `at least ${schema.minimum}` : "",
    schema.maximum !== undefined ? `at most ${schema.maximum}` : "",
  ];
  const { node, checked } = labelled(
    name,
    schema,
    required,
    input,
    limits.filter(Boolean).join(", "),
  );
  const read = checked(() => {
    const text = input.value.trim();
    if (!text) return need(required, name);
    const value = Number(text);
    if (!Number.isFinite(value)) throw new Wrong(`"${text}" is no number`);
    if (type === "integer" && !Number.isInteger(value)) throw new Wrong("a whole number");
    if (value < (schema.minimum ?? -Infinity)) throw new Wrong(limits[0]);
    if (value > (schema.maximum ?? Infinity)) throw new Wrong(limits[1]);
    return value;
  });
  return { node, read };
}

function flagField(name, schema, required, start) {
  const values = ["yes", "no"];
  const known = start === undefined || start === null ? undefined : start ? "yes" : "no";
  const made = choiceField(values, name, { description: schema.description }, required, known);
  return { node: made.node, read: () => ({ yes: true, no: false })[made.read()] };
}

function choiceField(values, name, schema, required, start) {
  const chosen = values.findIndex((value) => JSON.stringify(value) === JSON.stringify(start));
  const input = el("select", { class: "mnb-input mnb-short" });
  if (chosen < 0) input.append(el("option", { value: "" }, "choose…"));
  values.forEach((value, n) => input.append(el("option", { value: n }, String(value))));
  input.value = chosen < 0 ? "" : String(chosen);
  const { node, checked } = labelled(name, schema, required, input);
  return {
    node,
    read: checked(() => (input.value === "" ? need(required, name) : values[Number(input.value)])),
  };
}

function listField(name, schema, required, start) {
  const input = el("textarea", { class: "mnb-input", rows: 3 });
  input.value = (Array.isArray(start) ? start : []).join("\n");
  const { node, checked } = labelled(name, schema, required, input, "one a line");
  const read = checked(() => {
    const lines = input.value.split("\n").filter((line) => line.trim());
    return lines.length ? lines : (need(required, name) ?? (start ? [] : undefined));
  });
  return { node, read };
}

function jsonField(name, schema, required, start) {
  const input = el("textarea", { class: "mnb-input mnb-mono", rows: 5, spellcheck: "false" });
  input.value = start === undefined ? "" : JSON.stringify(start, null, 2);
  const { node, checked } = labelled(name, schema, required, input, "JSON");
  const read = checked(() => {
    if (!input.value.trim()) return need(required, name);
    try {
      return JSON.parse(input.value);
    } catch (error) {
      throw new Wrong(`this is no JSON: ${error.message}`);
    }
  });
  return { node, read };
}

function objectField(schema, root, name, required, start, depth) {
  const wanted = new Set(schema.required ?? []);
  const known = start && typeof start === "object" ? start : {};
  const fields = Object.entries(schema.properties).map(([key, each]) => [
    key,
    field(each, root, {
      label: key,
      required: wanted.has(key),
      value: known[key],
      depth: depth + 1,
    }),
  ]);
  const nodes = fields.map(([, each]) => each.node);
  const node = depth
    ? el("fieldset", { class: "mnb-group" }, el("legend", {}, name), ...nodes)
    : el("div", { class: "mnb-form" }, ...nodes);
  const read = () => {
    const out = {};
    let first = null;
    for (const [key, each] of fields) {
      try {
        const value = each.read();
        if (value !== undefined) Object.defineProperty(out, key, { value, enumerable: true });
      } catch (error) {
        first ??= error;
      }
    }
    // An object that nobody touched and nobody needs is none.
    if (depth && !required && start === undefined && !Object.keys(out).length) return undefined;
    if (first) throw first;
    return out;
  };
  return { node, read };
}

// a trace: one row a call, with its bar.

function waterfall(trace) {
  const spans = trace.spans;
  const end = Math.max(0.001, ...spans.map((span) => span.start + (span.seconds ?? 0)));
  const rows = spans.map((span) => {
    const bar = svg(
      "svg",
      {
        class: "mnb-bar",
        viewBox: "0 0 200 14",
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      svg("rect", { class: "mnb-track", x: 0, y: 6.5, width: 200, height: 1 }),
      svg("rect", {
        class: "mnb-span",
        "data-kind": span.kind,
        "data-status": span.status,
        x: (span.start / end) * 198,
        y: 2,
        width: Math.max(2, ((span.seconds ?? end - span.start) / end) * 200),
        height: 10,
        rx: 1,
      }),
    );
    const name = el(
      "span",
      { class: "mnb-spanname" },
      span.name,
      el("span", { class: "mnb-kind" }, span.kind),
    );
    name.style.paddingInlineStart = `${Math.min(span.depth, 12) * 14}px`;
    const summary = el(
      "summary",
      {},
      name,
      bar,
      el("span", { class: "mnb-time" }, time(span.seconds) || "…"),
    );
    if (span.status !== "ok") name.append(status(span.status));
    const more = ["input", "output"]
      .filter((key) => span[key] !== undefined)
      .map((key) =>
        el(
          "div",
          {},
          el("div", { class: "mnb-quiet" }, key),
          el("pre", { tabindex: 0 }, span[key]),
        ),
      );
    if (span.usage)
      more.push(
        el(
          "p",
          { class: "mnb-quiet" },
          `${number(span.usage.input)} tokens in · ${number(span.usage.output)} out · ${money(span.usage.cost)}`,
        ),
      );
    if (span.error) more.push(el("p", { class: "mnb-bad" }, span.error.message));
    if (!more.length) more.push(el("p", { class: "mnb-quiet" }, "nothing more is known of it"));
    return el("details", { class: "mnb-row" }, summary, el("div", { class: "mnb-more" }, ...more));
  });
  const rest = trace.more
    ? el("p", { class: "mnb-quiet" }, `and ${number(trace.more)} more`)
    : null;
  return el("div", { class: "mnb-waterfall" }, ...rows, rest);
}

// bars over time, stacked.

function stacked({ buckets, since, until, width }, key, measure, label) {
  const names = [...new Set(buckets.map((b) => b[key]))].sort();
  const columns = new Map();
  for (const bucket of buckets) {
    const n = Math.round((bucket.at - since) / width);
    const column = columns.get(n) ?? new Map();
    column.set(bucket[key], (column.get(bucket[key]) ?? 0) + measure(bucket));
    columns.set(n, column);
  }
  const sum = (column) => [...column.values()].reduce((a, b) => a + b, 0);
  const top = Math.max(1e-9, ...[...columns.values()].map(sum));
  const count = Math.max(1, Math.round((until - since) / width));
  const [W, H, LEFT] = [720, 180, 62];
  const step = (W - LEFT) / count;
  const picture = svg("svg", {
    class: "mnb-chart",
    viewBox: `0 0 ${W} ${H + 26}`,
    role: "img",
    "aria-label": `${label} over time, the table has the sums`,
  });
  for (const part of [0, 0.5, 1]) {
    const y = H - part * (H - 14);
    picture.append(svg("line", { class: "mnb-grid", x1: LEFT, x2: W, y1: y, y2: y }));
    picture.append(
      svg(
        "text",
        { class: "mnb-axis", x: LEFT - 6, y: y + 4, "text-anchor": "end" },
        worth(label, top * part),
      ),
    );
  }
  for (const [n, column] of columns) {
    let y = H;
    for (const [i, name] of names.entries()) {
      const value = column.get(name) ?? 0;
      if (!value) continue;
      const height = (value / top) * (H - 14);
      y -= height;
      const at = new Date((since + n * width) * 1000).toLocaleString("en", {
        dateStyle: "medium",
        timeStyle: "short",
      });
      picture.append(
        svg(
          "rect",
          {
            x: LEFT + n * step + 0.5,
            y,
            width: Math.max(1.5, step - 1),
            height: Math.max(0.5, height),
            fill: COLOURS[i % COLOURS.length],
          },
          svg("title", {}, `${name} · ${worth(label, value)} · ${at}`),
        ),
      );
    }
  }
  const hours = until - since <= 172800;
  for (const part of [0, 0.5, 1]) {
    const at = new Date((since + part * (until - since)) * 1000);
    const text = hours
      ? at.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false })
      : at.toLocaleDateString("en", { day: "numeric", month: "short" });
    picture.append(
      svg(
        "text",
        {
          class: "mnb-axis",
          x: LEFT + part * (W - LEFT),
          y: H + 18,
          "text-anchor": ["start", "middle", "end"][part * 2],
        },
        text,
      ),
    );
  }
  const legend = el(
    "ul",
    { class: "mnb-legend" },
    ...names.map((name, i) => {
      const mark = el("span", { class: "mnb-mark", "aria-hidden": "true" });
      mark.style.background = COLOURS[i % COLOURS.length];
      return el("li", {}, mark, name || "unnamed");
    }),
  );
  return el("figure", { class: "mnb-figure" }, picture, legend);
}

function worth(label, value) {
  return label === "Cost" ? money(value) : compact(value);
}
