function threadsTab({ ask }) {
  const text = search("Search in titles", () => list.restart());
  const messages = (found) =>
    found.map((m) =>
      el(
        "li",
        { class: "mnb-message", "data-role": m.role },
        el("div", { class: "mnb-quiet" }, m.role, m.at ? ` · ${ago(m.at)}` : ""),
        m.text ? el("div", { class: "mnb-text" }, m.text) : null,
        ...(m.tools ?? []).map((tool) =>
          el(
            "details",
            { class: "mnb-row" },
            el(
              "summary",
              {},
              el("code", {}, tool.name),
              tool.result === undefined ? "was called" : "answered",
            ),
            el("pre", { tabindex: 0 }, tool.result ?? tool.args),
          ),
        ),
      ),
    );
  const list = browser({
    label: "Threads",
    filters: [text],
    key: (row) => row.id,
    page: async (page) => {
      const found = await ask("threads", { ...page, text: text.value });
      return { ...found, rows: found.threads };
    },
    row: (row) => [
      el(
        "div",
        { class: "mnb-line" },
        el("strong", { class: "mnb-cut" }, row.title || row.id),
        el("span", { class: "mnb-quiet mnb-end" }, ago(row.updated)),
      ),
      el(
        "div",
        { class: "mnb-quiet mnb-cut" },
        `${number(row.messages)} messages${row.resource ? ` · ${row.resource}` : ""}`,
      ),
    ],
    none: () =>
      text.value
        ? empty("No thread is called that", "Search for less.")
        : empty("No conversations yet", "Agents with memory keep theirs here."),
    detail: {
      isLive: () => false,
      ask: (id) => ask("thread", { id, limit: PAGE }),
      draw: (found) => {
        const log = el("ul", { class: "mnb-messages" }, ...messages(found.messages));
        let before = found.before;
        const more = button("Earlier messages", async () => {
          more.disabled = true;
          try {
            const older = await ask("thread", { id: found.thread.id, limit: PAGE, before });
            log.prepend(...messages(older.messages));
            before = older.before;
            more.disabled = false;
            more.hidden = !before;
          } catch (error) {
            more.replaceWith(failed(error));
          }
        });
        more.hidden = !before;
        return [
          el("h3", {}, found.thread.title || found.thread.id),
          found.working
            ? el(
                "section",
                {},
                el("h4", {}, "Working memory"),
                el("pre", { tabindex: 0 }, found.working),
              )
            : null,
          more,
          found.messages.length ? log : empty("Nothing was said in it", ""),
        ].filter(Boolean);
      },
    },
  });
  return { node: list.node, refresh: list.refresh };
}
