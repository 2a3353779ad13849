// What the others are put together to.

const TABS = [
  ["Runs", runsTab],
  ["Costs", costsTab],
  ["Threads", threadsTab],
  ["Index", indexTab],
  ["Approvals", approvalsTab],
];

function render({ model, el: root }) {
  const { ask, changed, close } = wire(model);
  const voice = el("div", { class: "mnb-voice", "aria-live": "polite" });
  const badge = el("span", { class: "mnb-badge", hidden: true });
  const context = {
    ask,
    say: (text) => (voice.textContent = text),
    count: (n) => {
      badge.hidden = !n;
      badge.textContent = String(n);
      badge.setAttribute("aria-label", `${n} waiting`);
    },
  };
  const parts = TABS.map(([, make]) => make(context));
  const panels = parts.map((part, n) =>
    el("div", { class: "mnb-panel", role: "tabpanel", id: newId(), hidden: n > 0 }, part.node),
  );
  const tabs = TABS.map(([name], n) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        class: "mnb-tab",
        id: newId(),
        "aria-controls": panels[n].id,
        "aria-selected": String(n === 0),
        tabindex: n ? -1 : 0,
        onclick: () => open(n),
      },
      name,
      name === "Approvals" ? badge : null,
    ),
  );
  panels.forEach((panel, n) => panel.setAttribute("aria-labelledby", tabs[n].id));
  const list = el(
    "div",
    { class: "mnb-tabs", role: "tablist", "aria-label": "Dashboard" },
    ...tabs,
  );
  const dash = el(
    "div",
    { class: "mnb-dash", "data-lm-suppress-shortcuts": "true" },
    list,
    ...panels,
    voice,
  );
  let shown = 0;
  let stale = false;
  let visible = false;
  let busy = false;

  function open(n) {
    shown = n;
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === n));
      tab.tabIndex = i === n ? 0 : -1;
      panels[i].hidden = i !== n;
    });
    parts[n].refresh();
  }

  list.addEventListener("keydown", (event) => {
    const to = { ArrowRight: shown + 1, ArrowLeft: shown - 1, Home: 0, End: tabs.length - 1 }[
      event.key
    ];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    open((to + tabs.length) % tabs.length);
    tabs[shown].focus();
  });

  const inbox = () =>
    ask("waiting", { limit: 50 }).then(
      ({ waiting }) => context.count(waiting.length),
      () => context.count(0),
    );

  async function update() {
    if (!visible || document.hidden || busy) {
      stale = true;
      return;
    }
    busy = true;
    stale = false;
    const isInbox = TABS[shown][0] === "Approvals";
    await Promise.all([parts[shown].refresh({ quiet: true }), isInbox ? null : inbox()]);
    busy = false;
    if (stale) update();
  }

  const catchUp = () => stale && update();
  const watch = new IntersectionObserver((entries) => {
    visible = entries.at(-1).isIntersecting;
    catchUp();
  });
  watch.observe(dash);
  document.addEventListener("visibilitychange", catchUp);
  changed.add(update);
  root.append(dash);
  parts[0].refresh();
  inbox();
  return () => {
    watch.disconnect();
    document.removeEventListener("visibilitychange", catchUp);
    close();
  };
}

export default { render };
