// A list that arrows walk through, pages of it, and beside it what is chosen.
function browser({ label, filters, page, row, key, detail, none }) {
  const items = el("ul", { class: "mnb-items", role: "listbox", tabindex: 0, "aria-label": label });
  const box = el("div", { class: "mnb-listbox" });
  const side = el("div", {
    class: "mnb-side",
    tabindex: -1,
    role: "region",
    "aria-label": "Details",
  });
  const state = el("span", { class: "mnb-quiet", role: "status" });
  const before = button("Previous", () => turn(-1), "", { disabled: true });
  const after = button("Next", () => turn(1), "", { disabled: true });
  const node = el(
    "div",
    { class: "mnb-browser" },
    el("div", { class: "mnb-filters" }, ...filters),
    el(
      "div",
      { class: "mnb-columns" },
      el(
        "div",
        { class: "mnb-list" },
        box,
        el("div", { class: "mnb-pager" }, before, state, after),
      ),
      side,
    ),
  );
  const load = loader(box);
  const show = loader(side);
  let cursors = [null];
  let rows = [];
  let next = null;
  let chosen = null;

  function draw(found) {
    rows = found.rows;
    next = found.next;
    items.replaceChildren(
      ...rows.map((each, n) =>
        el(
          "li",
          {
            id: `${items.id}-${n}`,
            role: "option",
            class: "mnb-item",
            "aria-selected": String(key(each) === chosen),
            onclick: () => pick(n),
          },
          ...row(each),
        ),
      ),
    );
    box.replaceChildren(rows.length ? items : none());
    active();
    const first = (cursors.length - 1) * PAGE + 1;
    const total = found.total === undefined ? "" : ` of ${number(found.total)}`;
    state.textContent = rows.length
      ? `${number(first)}–${number(first + rows.length - 1)}${total}`
      : "";
    before.disabled = cursors.length < 2;
    after.disabled = !next;
  }

  function active() {
    const n = rows.findIndex((each) => key(each) === chosen);
    if (n < 0) items.removeAttribute("aria-activedescendant");
    else items.setAttribute("aria-activedescendant", `${items.id}-${n}`);
    [...items.children].forEach((li, i) => li.setAttribute("aria-selected", String(i === n)));
    return n;
  }

  function pick(n) {
    chosen = key(rows[n]);
    items.children[active()].scrollIntoView({ block: "nearest" });
    showChosen();
  }

  function showChosen(options) {
    show(
      () => detail.ask(chosen),
      (found) => side.replaceChildren(...detail.draw(found)),
      options,
    );
  }

  function refresh(options) {
    return load(() => page({ limit: PAGE, cursor: cursors.at(-1) }), draw, options);
  }

  function turn(by) {
    if (by > 0) cursors.push(next);
    else cursors.pop();
    refresh({ quiet: true }).then(() => box.scrollTo(0, 0));
  }

  items.id = newId();
  items.addEventListener("keydown", (event) => {
    const at = rows.findIndex((each) => key(each) === chosen);
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: rows.length - 1 }[
      event.key
    ];
    if (event.key === "Enter" && at >= 0) side.focus();
    else if (to === undefined) return;
    else pick(Math.min(rows.length - 1, Math.max(0, to)));
    event.preventDefault();
    event.stopPropagation();
  });
  side.replaceChildren(
    empty("Nothing is chosen", "Choose one on the left, with the mouse or with ↑ and ↓."),
  );
  return {
    node,
    refresh: async (options) => {
      await refresh(options);
      if (chosen !== null && !side.contains(document.activeElement) && detail.isLive())
        showChosen({ quiet: true });
    },
    restart: () => {
      cursors = [null];
      refresh({ quiet: true });
    },
  };
}
