function costsTab({ ask }) {
  const box = el("div", {});
  const load = loader(box);
  let found = null;
  const days = select(
    "Time",
    [
      ["30", "last 30 days"],
      ["7", "last 7 days"],
      ["1", "last 24 hours"],
      ["90", "last 90 days"],
    ],
    () => refresh(),
  );
  const measure = select(
    "Measure",
    [
      ["cost", "Cost"],
      ["tokens", "Tokens"],
    ],
    () => draw(found),
  );
  const by = select(
    "By",
    [
      ["name", "by agent"],
      ["model", "by model"],
    ],
    () => draw(found),
  );

  function draw(given) {
    found = given;
    if (!found) return;
    if (!found.buckets.length) {
      box.replaceChildren(
        empty("No model was called in this time", "Choose a longer time, or ask an agent."),
      );
      return;
    }
    const rows = new Map();
    for (const bucket of found.buckets) {
      const key = JSON.stringify([bucket.name, bucket.model]);
      const row = rows.get(key) ?? {
        name: bucket.name,
        model: bucket.model,
        calls: 0,
        input: 0,
        output: 0,
        cost: 0,
      };
      for (const each of ["calls", "input", "output"]) row[each] += bucket[each];
      row.cost = row.cost === null || bucket.cost === null ? null : row.cost + bucket.cost;
      rows.set(key, row);
    }
    const all = [...rows.values()].sort(
      (a, b) => (b.cost ?? 0) - (a.cost ?? 0) || b.input + b.output - a.input - a.output,
    );
    const sum = (key) => all.reduce((sum_, row) => sum_ + (row[key] ?? 0), 0);
    const unknown = all.some((row) => row.cost === null);
    const tiles = [
      ["Cost", `${unknown ? "at least " : ""}${money(sum("cost"))}`],
      ["Calls", number(sum("calls"))],
      ["Tokens in", compact(sum("input"))],
      ["Tokens out", compact(sum("output"))],
    ];
    const value = measure.value === "cost" ? (b) => b.cost ?? 0 : (b) => b.input + b.output;
    const priced = measure.value !== "cost" || sum("cost") > 0;
    box.replaceChildren(
      el(
        "dl",
        { class: "mnb-tiles" },
        ...tiles.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))),
      ),
      priced
        ? stacked(found, by.value, value, measure.value === "cost" ? "Cost" : "Tokens")
        : empty(
            "Nothing here has cost anything, or its price is not known",
            "Tokens can be shown instead.",
          ),
      el(
        "div",
        {
          class: "mnb-scroll",
          tabindex: 0,
          role: "region",
          "aria-label": "Costs by agent and model",
        },
        el(
          "table",
          { class: "mnb-table" },
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              ...["Agent", "Model", "Calls", "Tokens in", "Tokens out", "Cost"].map((t) =>
                el("th", { scope: "col" }, t),
              ),
            ),
          ),
          el(
            "tbody",
            {},
            ...all
              .slice(0, 200)
              .map((row) =>
                el(
                  "tr",
                  {},
                  el("td", {}, row.name),
                  el("td", {}, row.model),
                  ...[
                    number(row.calls),
                    number(row.input),
                    number(row.output),
                    money(row.cost),
                  ].map((t) => el("td", { class: "mnb-num" }, t)),
                ),
              ),
          ),
        ),
      ),
    );
  }
  const refresh = (options) =>
    load(
      () =>
        ask("costs", {
          days: Number(days.value),
          buckets: days.value === "1" ? 24 : Number(days.value) >= 30 ? Number(days.value) : 28,
        }),
      draw,
      options,
    );
  return {
    node: el("div", {}, el("div", { class: "mnb-filters" }, days, measure, by), box),
    refresh,
  };
}
