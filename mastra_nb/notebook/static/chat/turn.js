// One turn.

class TurnView {
  constructor(view, turn) {
    this.view = view;
    this.turn = turn;
    this.spoken = 0;
    this.items = [];
    this.open = new Set();
    this.question = el("div", { class: "mnb-question" });
    this.body = el("div", { class: "mnb-body" });
    this.state = el("div", { class: "mnb-state" });
    this.asked = el("div", { class: "mnb-askedbox" });
    this.foot = el("div", { class: "mnb-foot" });
    this.node = el(
      "article",
      { class: "mnb-turn", "aria-label": `Turn: ${cut(turn.text || "files", 60)}` },
      this.question,
      el("div", { class: "mnb-answer" }, this.body, this.state, this.asked, this.foot),
    );
    this.drawQuestion();
    turn.items.forEach((_, i) => this.drawItem(i));
    this.drawHead({ pending: true });
    this.spoken = this.plainText().length;
  }

  update(message) {
    this.items.splice(message.count).forEach((node) => node.remove());
    for (const change of message.items) {
      if (change.item === undefined)
        this.drawBlocks(this.items[change.i], this.turn.items[change.i].blocks, change.from);
      else this.drawItem(change.i);
    }
    if (Object.keys(message.head).length || message.items.length) this.drawHead(message.head);
    this.speak(message.head.status !== undefined && message.head.status !== "running");
  }

  drawQuestion() {
    const { turn, view } = this;
    const files = (turn.files ?? []).map((file) => chip(file, null));
    const actions = el(
      "div",
      { class: "mnb-actions" },
      copyButton("Copy the question", () => turn.text),
      iconButton("edit", "Edit: ask otherwise in a branch", () => this.edit()),
    );
    this.question.replaceChildren(
      ...(files.length ? [el("div", { class: "mnb-chips" }, ...files)] : []),
      el(
        "div",
        { class: "mnb-said" },
        actions,
        turn.text ? el("div", { class: "mnb-bubble" }, turn.text) : null,
      ),
    );
    this.editActions = [actions.lastElementChild];
    this.lock(view.room.busy);
  }

  edit() {
    const field = el("textarea", {
      class: "mnb-field",
      "aria-label": "Edit the question",
      rows: 2,
    });
    field.value = this.turn.text;
    const done = () => {
      this.drawQuestion();
      this.question.querySelector("button:last-of-type")?.focus();
    };
    const send = () => {
      if (!field.value.trim() && !this.turn.files?.length) return;
      this.view.room.send({ do: "edit", turn: this.turn.id, text: field.value });
      this.drawQuestion();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") done();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    field.addEventListener("input", () => fit(field, 220));
    this.question.replaceChildren(
      el(
        "div",
        { class: "mnb-editbox" },
        field,
        el(
          "div",
          { class: "mnb-row" },
          el("span", { class: "mnb-hint" }, "Goes on in a branch; this conversation stays."),
          button("Cancel", done),
          button("Send", send, "mnb-primary"),
        ),
      ),
    );
    fit(field, 220);
    field.focus();
  }

  lock(busy) {
    for (const each of this.editActions ?? []) each.disabled = busy;
    for (const each of this.footActions ?? []) each.disabled = busy;
  }

  drawItem(i) {
    const item = this.turn.items[i];
    const old = this.items[i];
    let node;
    if (item.t === "text") {
      node = el("div", { class: "mnb-md" });
      this.drawBlocks(node, item.blocks, 0);
    } else if (item.t === "thought") {
      const text = el("div", { class: "mnb-md mnb-thought" });
      this.drawBlocks(text, item.blocks, 0);
      node = fold("mnb-fold", [el("span", { class: "mnb-what" }, "Reasoning")], text);
      node.blocksIn = text;
    } else if (item.t === "tool") {
      node = toolLine(item);
    } else if (item.t === "image") {
      node = picture(item.mime, item.data, "Image of a tool");
    } else {
      node = el(
        "div",
        { class: `mnb-note mnb-${item.level === "info" ? "info" : "warning"}` },
        item.text,
      );
    }
    if (old !== undefined) {
      // What somebody has opened stays open, and keeps the focus.
      if (old.open) node.open = true;
      const focus = old.contains(document.activeElement);
      old.replaceWith(node);
      if (focus) node.querySelector("summary")?.focus();
    } else {
      this.body.append(node);
    }
    this.items[i] = node;
  }

  drawBlocks(node, blocks, from) {
    const target = node.blocksIn ?? node;
    while (target.children.length > from) target.lastElementChild.remove();
    for (const html of blocks.slice(from))
      target.append(el("div", { class: "mnb-block" }, safe(html)));
  }

  drawHead(head) {
    const { turn } = this;
    const last = turn.items.at(-1);
    this.node.dataset.status = turn.status;
    const speaks = last?.t === "text" && last.blocks.length > 0;
    const works = last?.t === "tool" && last.status === "running";
    if (turn.status === "running" && !speaks && !works) {
      this.state.replaceChildren(
        el("div", { class: "mnb-thinking" }, el("span"), el("span"), el("span"), "Thinking"),
      );
    } else if (turn.status === "cancelled") {
      this.state.replaceChildren(el("div", { class: "mnb-note mnb-info" }, "■ Stopped"));
    } else if (turn.status === "failed") {
      this.state.replaceChildren(this.failure(turn.error ?? { message: "The run failed" }));
    } else {
      this.state.replaceChildren();
    }
    if ("pending" in head || "status" in head) this.drawAsked(turn.pending ?? []);
    this.drawFoot();
  }

  failure(error) {
    return el(
      "div",
      { class: "mnb-error", role: "alert" },
      icon("warn"),
      el(
        "div",
        { class: "mnb-errortext" },
        el("div", {}, error.message),
        error.hint ? el("div", { class: "mnb-hint" }, error.hint) : null,
      ),
      button("Retry", () => this.view.room.send({ do: "retry", turn: this.turn.id })),
    );
  }

  drawAsked(pending) {
    const boxes = pending.map((asked) =>
      askedBox(asked, (answer) =>
        this.view.room.send({ do: "answer", turn: this.turn.id, path: asked.path, answer }),
      ),
    );
    this.asked.replaceChildren(...boxes);
    // Only whoever is in the chat is taken to the question, and not while typing.
    if (boxes.length && this.view.isQuiet())
      boxes[0].querySelector("button")?.focus({ preventScroll: true });
    if (boxes.length)
      this.view.say(`Approval needed: ${pending.map((p) => p.tool ?? p.reason).join(", ")}`);
  }

  drawFoot() {
    const { turn, view } = this;
    if (turn.status === "running" || turn.status === "suspended") {
      this.foot.replaceChildren();
      this.footActions = [];
      return;
    }
    const usage = turn.usage;
    const facts = [
      turn.model ? el("span", {}, turn.model) : null,
      usage
        ? el(
            "span",
            { title: "tokens in / out" },
            `${usage.input.toLocaleString("en")}/${usage.output.toLocaleString("en")} tokens`,
          )
        : null,
      usage && typeof usage.cost === "number"
        ? el("span", { title: "cost" }, dollars(usage.cost))
        : null,
      turn.seconds !== undefined ? el("span", {}, seconds(turn.seconds)) : null,
    ].filter(Boolean);
    this.footActions = [];
    const actions = [];
    if (turn.markdown) actions.push(copyButton("Copy the answer", () => turn.markdown));
    if (view.room.turns.at(-1) === turn && turn.pos) {
      this.footActions.push(
        iconButton("retry", "Answer again, in a branch", () =>
          view.room.send({ do: "regenerate", turn: turn.id }),
        ),
      );
    }
    if (turn.pos) {
      this.footActions.push(
        iconButton("branch", "Branch from here", () =>
          view.room.send({ do: "branch", turn: turn.id }),
        ),
      );
    }
    this.foot.replaceChildren(
      el("div", { class: "mnb-facts" }, ...facts),
      el("div", { class: "mnb-actions" }, ...actions, ...this.footActions),
    );
    this.lock(view.room.busy);
  }

  plainText() {
    return this.turn.items
      .map((item, i) => (item.t === "text" ? this.items[i].textContent : ""))
      .join("\n");
  }

  // Once for each sentence, and the rest at the end.
  speak(ended) {
    const text = this.plainText();
    const fresh = text.slice(this.spoken);
    const at = ended
      ? fresh.length
      : Math.max(...[...fresh.matchAll(/[.!?:]\s|\n/g)].map((m) => m.index + 1), 0);
    if (at > 0) {
      this.spoken += at;
      this.view.say(fresh.slice(0, at).trim());
    }
    if (ended && this.turn.status === "cancelled") this.view.say("Stopped");
  }
}

function fold(extra, summary, ...content) {
  return el(
    "details",
    { class: extra },
    el("summary", {}, ...summary),
    el("div", { class: "mnb-folded" }, ...content),
  );
}

function toolLine(item) {
  const failed = item.error !== undefined;
  const mark =
    { running: "mnb-spin", suspended: "mnb-wait", streaming: "mnb-spin" }[item.status] ??
    (failed ? "mnb-bad" : item.status === "cancelled" ? "mnb-off" : "mnb-good");
  const state =
    {
      running: "running",
      streaming: "writing the call",
      suspended: "waits for you",
      cancelled: "stopped",
      "not run": "not run",
    }[item.status] ?? (failed ? "failed" : "done");
  const summary = [
    el("span", { class: `mnb-mark ${mark}`, role: "img", "aria-label": state }),
    el("span", { class: "mnb-what" }, item.name),
    el("span", { class: "mnb-args" }, cut(compact(item.args), 120)),
    el(
      "span",
      { class: "mnb-took" },
      item.status === "suspended"
        ? "waits"
        : item.seconds === undefined
          ? ""
          : seconds(item.seconds),
    ),
  ];
  const content = [];
  if (item.args !== undefined) content.push(labelled("Arguments", pretty(item.args)));
  if (failed)
    content.push(
      labelled(
        "Error",
        [item.error.message, item.error.hint].filter(Boolean).join("\n"),
        "mnb-badtext",
      ),
    );
  else if (item.result !== undefined) content.push(labelled("Result", pretty(item.result)));
  for (const inner of item.items ?? []) {
    if (inner.t === "tool") content.push(toolLine(inner));
    else if (inner.t === "image") content.push(picture(inner.mime, inner.data, "Image of a tool"));
    else if (inner.t === "note")
      content.push(el("div", { class: "mnb-note mnb-info" }, inner.text));
  }
  const made = fold("mnb-fold mnb-tool", summary, ...content);
  if (failed) made.classList.add("mnb-failed");
  return made;
}

function labelled(label, text, extra = "") {
  return el(
    "div",
    { class: "mnb-io" },
    el("div", { class: "mnb-label" }, label),
    el("pre", { class: extra, tabindex: 0 }, text),
  );
}

function picture(mime, data, alt) {
  if (!/^image\/(png|jpeg|gif|webp)$/.test(mime) || !/^[A-Za-z0-9+/=]*$/.test(data))
    return el("span");
  return el("img", { class: "mnb-picture", src: `data:${mime};base64,${data}`, alt });
}

function chip(file, remove) {
  const made = el("span", { class: "mnb-chip" });
  if (file.data) made.append(picture(file.mime, file.data, ""));
  else if (file.preview)
    made.append(el("img", { class: "mnb-picture", src: file.preview, alt: "" }));
  else made.append(icon("file"));
  made.append(el("span", { class: "mnb-chipname" }, file.name));
  if (file.size !== undefined) made.append(el("span", { class: "mnb-chipsize" }, bytes(file.size)));
  if (remove) made.append(iconButton("close", `Remove ${file.name}`, remove));
  return made;
}

function fit(field, most) {
  field.style.height = "auto";
  field.style.height = `${Math.min(most, field.scrollHeight + 2)}px`;
}
