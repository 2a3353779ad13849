function approvalsTab({ ask, say, count }) {
  const box = el("div", { class: "mnb-inbox" });
  const load = loader(box);
  const cards = new Map();

  function card(each) {
    const sent = async (answer) => {
      wrong.replaceChildren();
      for (const one of node.querySelectorAll("button")) one.disabled = true;
      try {
        await ask("answer", { run: each.run, path: each.path, answer });
        node.replaceChildren(el("p", { class: "mnb-quiet" }, `${each.name} goes on.`));
        say(`Answered: ${each.name} goes on.`);
      } catch (error) {
        for (const one of node.querySelectorAll("button")) one.disabled = false;
        wrong.replaceChildren(failed(error));
      }
    };
    const wrong = el("div", {});
    const read = (made, then) => () => {
      try {
        then(made.read());
      } catch (error) {
        if (!(error instanceof Wrong)) throw error;
        (error.input ?? node).focus();
      }
    };
    const approval = each.reason === "approval" && each.tool;
    const body = approval ? decide(each, sent, read) : question(each, sent, read);
    const due = each.deadline
      ? ` · until ${new Date(each.deadline * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}`
      : "";
    const node = el(
      "article",
      { class: "mnb-card", tabindex: -1 },
      el(
        "div",
        { class: "mnb-line" },
        el("h3", {}, each.name),
        approval
          ? el("span", {}, "wants to call ", el("code", {}, each.tool))
          : el("span", {}, each.reason),
        el("span", { class: "mnb-quiet mnb-end" }, `${ago(each.since)}${due}`),
      ),
      ...body,
      wrong,
    );
    return node;
  }

  function decide(each, sent, read) {
    const args = each.args ?? {};
    const shown = el("pre", { tabindex: 0 }, pretty(args));
    const typed = each.schema?.properties?.args;
    const edited = field(typed?.properties ? typed : { title: "Arguments" }, each.schema ?? {}, {
      label: "Arguments",
      required: true,
      value: args,
    });
    const edits = el("div", { hidden: true }, edited.node);
    const why = field({ type: "string" }, {}, { label: "Reason" });
    const reason = el("div", { hidden: true }, why.node);
    const actions = el("div", { class: "mnb-actions" });
    const back = () => {
      edits.hidden = reason.hidden = true;
      shown.hidden = false;
      actions.replaceChildren(...first);
      first[0].focus();
    };
    const enter = (part, doing) => {
      part.hidden = false;
      shown.hidden = part === edits;
      actions.replaceChildren(doing, button("Back", back));
      part.querySelector("input, textarea, select").focus();
    };
    const first = [
      button("Approve", () => sent({ approved: true }), "mnb-primary"),
      button("Edit arguments", () =>
        enter(
          edits,
          button(
            "Approve with these",
            read(edited, (value) => sent({ approved: true, args: value })),
            "mnb-primary",
          ),
        ),
      ),
      button("Deny", () =>
        enter(
          reason,
          button(
            "Deny",
            read(why, (text) => sent({ approved: false, ...(text ? { reason: text } : {}) })),
            "mnb-danger",
          ),
        ),
      ),
    ];
    actions.append(...first);
    return [shown, edits, reason, actions];
  }

  function question(each, sent, read) {
    const payload =
      each.payload === null || each.payload === undefined
        ? null
        : el("pre", { tabindex: 0 }, pretty(each.payload));
    const made = field(each.schema ?? {}, each.schema ?? {}, { label: "Answer", required: true });
    return [
      payload,
      made.node,
      el("div", { class: "mnb-actions" }, button("Answer", read(made, sent), "mnb-primary")),
    ];
  }

  function draw({ waiting }) {
    count(waiting.length);
    const now = new Map(waiting.map((each) => [`${each.run}\n${each.path}\n${each.since}`, each]));
    // A form that somebody fills in stays what it is while others come and go.
    for (const key of cards.keys()) if (!now.has(key)) cards.delete(key);
    for (const [key, each] of now) if (!cards.has(key)) cards.set(key, card(each));
    const wanted = waiting.length
      ? [...cards.values()]
      : [empty("Nothing waits", "Calls that need approval and questions of workflows come here.")];
    for (const node of [...box.children]) if (!wanted.includes(node)) node.remove();
    for (const node of wanted) if (node.parentNode !== box) box.append(node);
  }
  return {
    node: box,
    refresh: (options) => load(() => ask("waiting", { limit: 50 }), draw, options),
  };
}
