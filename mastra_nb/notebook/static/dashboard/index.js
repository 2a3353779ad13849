function indexTab({ ask }) {
  const box = el("div", {});
  const load = loader(box);
  const hits = el("div", {
    class: "mnb-hits",
    tabindex: 0,
    role: "region",
    "aria-label": "What was found",
  });
  const look = loader(hits);
  const passage = el("div", { class: "mnb-passage", role: "status" });
  const about = el("p", { class: "mnb-quiet" });
  const picture = el("div", {});
  const loadMap = loader(picture);
  let marks = new Map();
  let known = "";
  const choice = select("Index", [], () => open());
  const words = search("Search in it", () => find());
  words.addEventListener("keydown", (event) => event.key === "Enter" && find());
  const body = el("div", { class: "mnb-index" }, el("div", {}, picture, passage), hits);

  function draw({ indexes }) {
    if (!indexes.length) {
      box.replaceChildren(
        empty(
          "No indexes yet",
          'Index("notes").add(...) or %mastra index ingest NAME PATH makes one.',
        ),
      );
      known = "";
      return;
    }
    const now = JSON.stringify(indexes);
    if (now === known && box.contains(body)) return;
    known = now;
    const before = choice.value;
    choice.replaceChildren(...indexes.map((each) => el("option", { value: each.name }, each.name)));
    if (indexes.some((each) => each.name === before)) choice.value = before;
    box.replaceChildren(el("div", { class: "mnb-filters" }, choice, words), about, body);
    open();
  }

  function open() {
    const info = JSON.parse(known).find((each) => each.name === choice.value);
    about.textContent = [
      `${number(info.count)} passages`,
      info.dimension ? `${info.dimension} dimensions` : "by words only",
      info.embedder,
      info.disk ? `${compact(info.disk / 1024)} KiB` : "",
    ]
      .filter(Boolean)
      .join(" · ");
    hits.replaceChildren();
    words.value = "";
    loadMap(() => ask("map", { index: choice.value, limit: 2000 }), plot);
  }

  function tell(point) {
    passage.replaceChildren(
      point ? el("div", { class: "mnb-text" }, point.text || "no text") : "",
      point?.source ? el("div", { class: "mnb-quiet" }, point.source) : "",
    );
  }

  function plot({ points, explained, count }) {
    marks = new Map();
    passage.replaceChildren(
      el(
        "span",
        { class: "mnb-quiet" },
        points.length ? "Point at a dot, or use the arrow keys, to read it." : "",
      ),
    );
    if (!points.length) {
      picture.replaceChildren(
        empty(
          "There is nothing to draw",
          "The index is empty, or has words and no vectors. It can be searched.",
        ),
      );
      return;
    }
    const [W, H] = [520, 360];
    const range = (axis) => [
      Math.min(...points.map((p) => p[axis])),
      Math.max(...points.map((p) => p[axis])),
    ];
    const place = ([low, high], size, value) =>
      14 + ((value - low) / (high - low || 1)) * (size - 28);
    const [xs, ys] = [range("x"), range("y")];
    const at = points.map((p) => [place(xs, W, p.x), H - place(ys, H, p.y)]);
    const share = explained.map((part) => `${Math.round(part * 100)} %`).join(" and ");
    const map = svg("svg", {
      class: "mnb-map",
      viewBox: `0 0 ${W} ${H}`,
      tabindex: 0,
      role: "application",
      "aria-label": `A map of ${points.length} passages; arrow keys go from one to the next`,
    });
    points.forEach((point, n) => {
      const dot = svg("circle", {
        cx: at[n][0].toFixed(1),
        cy: at[n][1].toFixed(1),
        r: points.length > 500 ? 3 : 4.5,
      });
      marks.set(point.id, dot);
      map.append(dot);
    });
    let chosen = -1;
    const pick = (n) => {
      if (n < 0 || n === chosen) return;
      if (chosen >= 0) marks.get(points[chosen].id).classList.remove("mnb-chosen");
      chosen = n;
      marks.get(points[n].id).classList.add("mnb-chosen");
      tell(points[n]);
    };
    const nearest = (x, y, fits) => {
      let best = [-1, Infinity];
      at.forEach(([px, py], n) => {
        const far = (px - x) ** 2 + (py - y) ** 2;
        if (far < best[1] && fits(px - x, py - y, n)) best = [n, far];
      });
      return best;
    };
    map.addEventListener("pointermove", (event) => {
      const area = map.getBoundingClientRect();
      const [n, far] = nearest(
        ((event.clientX - area.left) / area.width) * W,
        ((event.clientY - area.top) / area.height) * H,
        () => true,
      );
      if (far < 400) pick(n);
    });
    map.addEventListener("focus", () => chosen < 0 && pick(nearest(W / 2, H / 2, () => true)[0]));
    map.addEventListener("keydown", (event) => {
      const fits = {
        ArrowLeft: (dx, dy) => dx < 0 && Math.abs(dy) <= -dx,
        ArrowRight: (dx, dy) => dx > 0 && Math.abs(dy) <= dx,
        ArrowUp: (dx, dy) => dy < 0 && Math.abs(dx) <= -dy,
        ArrowDown: (dx, dy) => dy > 0 && Math.abs(dx) <= dy,
      }[event.key];
      if (!fits || chosen < 0) return;
      event.preventDefault();
      event.stopPropagation();
      pick(nearest(...at[chosen], (dx, dy, n) => n !== chosen && fits(dx, dy))[0]);
    });
    picture.replaceChildren(
      map,
      el(
        "p",
        { class: "mnb-quiet" },
        `${points.length < count ? `${number(points.length)} of ${number(count)} passages, spread evenly; ` : ""}near is alike; the axes hold ${share} of what differs`,
      ),
    );
  }

  function find() {
    for (const mark of marks.values()) mark.classList.remove("mnb-hit");
    const text = words.value.trim();
    if (!text) {
      hits.replaceChildren();
      return;
    }
    look(
      () => ask("search", { index: choice.value, text, limit: 10 }),
      (found) => {
        for (const hit of found.hits) {
          const mark = marks.get(hit.id);
          mark?.classList.add("mnb-hit");
          mark?.parentNode.append(mark);
        }
        const how =
          found.by === "hybrid"
            ? "by words and by meaning"
            : `by words${found.why ? `: ${found.why}` : ""}`;
        hits.replaceChildren(
          el("p", { class: "mnb-quiet", role: "status" }, `${found.hits.length} found ${how}`),
          found.hits.length
            ? el(
                "ol",
                {},
                ...found.hits.map((hit) =>
                  el(
                    "li",
                    {},
                    el("div", { class: "mnb-text" }, hit.text),
                    el(
                      "div",
                      { class: "mnb-quiet" },
                      [hit.source, hit.score.toFixed(3)].filter(Boolean).join(" · "),
                    ),
                  ),
                ),
              )
            : empty("Nothing is like that", "Try other words."),
        );
      },
    );
  }
  return { node: box, refresh: (options) => load(() => ask("indexes"), draw, options) };
}
