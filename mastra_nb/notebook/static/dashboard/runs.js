// The tabs, one file each.

function runsTab({ ask, say }) {
  let status_ = "";
  let moving = false;
  const text = search("Search in inputs", () => list.restart());
  const name = search("Agent", () => list.restart());
  const options = [
    ["", "any status"],
    ...["running", "suspended", "done", "failed", "cancelled"].map((s) => [s, WORDS[s]]),
  ];
  const state = select("Status", options, () => ((status_ = state.value), list.restart()));
  const list = browser({
    label: "Runs",
    filters: [text, name, state],
    key: (row) => row.id,
    page: async (page) => {
      const found = await ask("runs", {
        ...page,
        status: status_,
        text: text.value,
        name: name.value.trim(),
      });
      return { ...found, rows: found.runs };
    },
    row: (row) => [
      el(
        "div",
        { class: "mnb-line" },
        el("strong", {}, row.name),
        status(row.status),
        el("span", { class: "mnb-quiet mnb-end" }, ago(row.created)),
      ),
      el("div", { class: "mnb-cut" }, row.input || "no input"),
      el(
        "div",
        { class: "mnb-quiet mnb-cut" },
        [
          row.model,
          row.model && `${compact(row.input_tokens + row.output_tokens)} tokens`,
          row.model && money(row.cost),
          time(row.seconds),
        ]
          .filter(Boolean)
          .join(" · "),
      ),
    ],
    none: () =>
      text.value || name.value || status_
        ? empty("No run is like that", "Search for less, or for another status.")
        : empty("No runs yet", "Ask an agent: it shows up here while it runs."),
    detail: {
      isLive: () => moving,
      ask: async (id) => {
        const [bundle, trace] = await Promise.all([
          ask("run", { id }),
          ask("trace", { id, limit: 500 }),
        ]);
        return { id, bundle, trace };
      },
      draw: ({ id, bundle, trace }) => {
        const record = bundle[RECORD];
        moving = ["running", "suspended"].includes(record.status);
        const stop = button("Stop", async () => {
          stop.disabled = true;
          try {
            await ask("stop", { run: id });
            say("The run was stopped.");
          } catch (error) {
            stop.replaceWith(failed(error));
          }
        });
        return runDetail(id, record, bundle["text/markdown"] ?? "", trace, moving ? stop : null);
      },
    },
  });
  return { node: list.node, refresh: list.refresh };
}

function runDetail(id, record, markdown, trace, stop) {
  const texts = (record.items ?? [])
    .filter((item) => item.type === "text")
    .map((item) => item.text ?? (item.at ? markdown.slice(...item.at) : ""));
  const said = record.text ?? (record.at ? markdown.slice(...record.at) : texts.join("\n\n"));
  const answer = said || (record.output !== undefined ? pretty(record.output) : "");
  const used = trace.spans.filter((span) => span.usage);
  const sum = (key) => used.reduce((all, span) => all + span.usage[key], 0);
  const cost = used.some((span) => span.usage.cost === null) ? null : sum("cost");
  const facts = [
    ["run", id],
    ["model", record.model],
    ["tokens", used.length ? `${number(sum("input"))} in, ${number(sum("output"))} out` : ""],
    ["cost", used.length ? money(cost) : ""],
    ["took", time(record.seconds)],
    ["thread", record.thread],
  ].filter(([, value]) => value);
  const tools = (record.items ?? []).filter((item) => item.type === "tool");
  return [
    el(
      "div",
      { class: "mnb-line" },
      el("h3", {}, record.agent),
      status(record.status),
      stop ? el("span", { class: "mnb-end" }, stop) : null,
    ),
    el(
      "dl",
      { class: "mnb-facts" },
      ...facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
    record.error
      ? el(
          "div",
          { class: "mnb-note mnb-bad" },
          record.error.message,
          record.error.hint ? el("p", { class: "mnb-quiet" }, record.error.hint) : null,
        )
      : null,
    answer
      ? el("section", {}, el("h4", {}, "Answer"), el("div", { class: "mnb-text" }, answer))
      : null,
    tools.length
      ? el(
          "section",
          {},
          el("h4", {}, "Tool calls"),
          ...tools.map((tool) =>
            el(
              "details",
              { class: "mnb-row" },
              el(
                "summary",
                {},
                el("code", {}, tool.name),
                status(tool.status),
                el("span", { class: "mnb-time" }, time(tool.seconds)),
              ),
              el(
                "div",
                { class: "mnb-more" },
                ...["args", "result", "error"]
                  .filter((key) => tool[key] !== undefined)
                  .map((key) =>
                    el(
                      "div",
                      {},
                      el("div", { class: "mnb-quiet" }, key),
                      el("pre", { tabindex: 0 }, pretty(tool[key])),
                    ),
                  ),
              ),
            ),
          ),
        )
      : null,
    trace.spans.length ? el("section", {}, el("h4", {}, "Trace"), waterfall(trace)) : null,
  ].filter(Boolean);
}
