// What the others are put together to.

class View {
  constructor(room, root) {
    this.room = room;
    this.turns = new Map();
    this.stick = true;
    this.threads = new Threads(this);
    this.composer = new Composer(this);
    this.agent = el("span", { class: "mnb-agent" });
    this.banner = el("div", { class: "mnb-banner", role: "alert", hidden: true });
    this.voice = el("div", { class: "mnb-voice", "aria-live": "polite" });
    this.earlier = button(
      "Show earlier messages",
      () => this.room.send({ do: "earlier" }),
      "mnb-earlier",
    );
    this.hello = el("div", { class: "mnb-hello" });
    this.list = el("div", { class: "mnb-turns" });
    // The voice says it, once for each sentence: the log itself is silent.
    this.log = el(
      "div",
      {
        class: "mnb-log",
        role: "log",
        "aria-live": "off",
        "aria-label": "Conversation",
        tabindex: 0,
      },
      this.earlier,
      this.hello,
      this.list,
    );
    this.jump = iconButton("end", "Jump to the end", () => this.toEnd(), "mnb-jump");
    this.fresh = iconButton("add", "New conversation", () => {
      this.room.send({ do: "new" });
      this.composer.field.focus();
    });
    this.node = el(
      "section",
      { class: "mnb-chat", "aria-label": "Chat", "data-lm-suppress-shortcuts": "true" },
      el(
        "header",
        { class: "mnb-head" },
        this.agent,
        this.threads.toggle,
        el("span", { class: "mnb-grow" }),
        this.fresh,
        this.threads.panel,
      ),
      this.banner,
      el("div", { class: "mnb-middle" }, this.log, this.jump),
      this.composer.node,
      this.voice,
    );
    this.listen();
    root.append(this.node);
    this.drawAll();
  }

  listen() {
    this.log.addEventListener("scroll", () => {
      this.stick = this.isAtEnd();
      this.jump.hidden = this.stick;
    });
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.room.busy) this.composer.stop();
      // The notebook's own keys would hide, run or delete cells.
      if (!(event.ctrlKey || event.metaKey) || event.key === "Enter") event.stopPropagation();
    });
    const isFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    this.node.addEventListener("dragover", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.node.classList.add("mnb-drop");
    });
    this.node.addEventListener("dragleave", (event) => {
      if (!this.node.contains(event.relatedTarget)) this.node.classList.remove("mnb-drop");
    });
    this.node.addEventListener("drop", (event) => {
      this.node.classList.remove("mnb-drop");
      if (!isFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.composer.attach([...event.dataTransfer.files]);
    });
    this.outside = (event) => {
      if (
        !this.threads.panel.hidden &&
        !this.threads.panel.contains(event.target) &&
        !this.threads.toggle.contains(event.target)
      )
        this.threads.show(false);
    };
    document.addEventListener("pointerdown", this.outside);
  }

  close() {
    document.removeEventListener("pointerdown", this.outside);
    this.node.remove();
  }

  isAtEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 48;
  }

  toEnd() {
    this.stick = true;
    this.log.scrollTop = this.log.scrollHeight;
    this.jump.hidden = true;
  }

  // Whether a question of a run may take the focus: somebody is here, and is not writing.
  isQuiet() {
    const active = document.activeElement;
    return this.node.contains(active) && !(active.value ?? "").trim();
  }

  say(text) {
    if (text) this.voice.textContent = text;
  }

  update(message) {
    switch (message.kind) {
      case "state":
        this.drawAll();
        break;
      case "turn":
        this.add(message.turn);
        this.composer.taken();
        break;
      case "delta":
        this.turns.get(message.id)?.update(message);
        break;
      case "earlier":
        this.addEarlier(message.turns);
        break;
      case "gone":
        this.turns.get(message.turn)?.node.remove();
        this.turns.delete(message.turn);
        break;
      case "busy":
        for (const turn of this.turns.values()) turn.lock(this.room.busy);
        if (!this.room.busy && this.composer.eager) {
          this.composer.refresh();
          this.composer.send();
        }
        break;
      case "titled":
        this.threads.name();
        break;
      case "threads":
        this.threads.draw();
        break;
      case "error":
        if (message.of === "ask") this.room.busy = false;
        this.composer.giveBack();
        this.composer.tell([message.message, message.hint].filter(Boolean).join(" — "));
        break;
      case "lost":
        this.banner.textContent =
          "Not connected: the kernel does not answer. It may be busy; after a restart run the cell again.";
        this.banner.hidden = false;
        this.composer.giveBack();
        break;
      case "found":
        this.banner.hidden = true;
        break;
    }
    this.refresh();
  }

  refresh() {
    this.composer.refresh();
    this.fresh.disabled = this.room.busy || this.room.lost;
    this.earlier.hidden = !this.room.earlier;
    this.hello.hidden = !this.room.known || this.room.turns.length > 0;
    this.node.classList.toggle("mnb-empty", this.room.turns.length === 0);
    if (this.stick) this.log.scrollTop = this.log.scrollHeight;
    this.jump.hidden = this.stick || this.isAtEnd();
  }

  drawAll() {
    const { room } = this;
    this.banner.hidden = true;
    this.agent.textContent = room.agent ?? "";
    this.composer.field.placeholder = room.agent ? `Ask ${room.agent}…` : "Connecting…";
    this.hello.replaceChildren(
      el("div", { class: "mnb-helloname" }, `Chat with ${room.agent ?? ""}`),
      ...(room.about ? [el("div", {}, cut(room.about, 200))] : []),
      el("div", { class: "mnb-hint" }, room.model ?? ""),
    );
    this.threads.name();
    this.list.replaceChildren();
    this.turns.clear();
    for (const turn of room.turns) this.add(turn);
    this.stick = true;
    this.refresh();
  }

  add(turn) {
    const made = new TurnView(this, turn);
    const last = [...this.turns.values()].at(-1);
    this.turns.set(turn.id, made);
    this.list.append(made.node);
    last?.drawFoot();
  }

  addEarlier(turns) {
    const before = this.log.scrollHeight;
    const made = turns.map((turn) => new TurnView(this, turn));
    this.list.prepend(...made.map((each) => each.node));
    this.turns = new Map([...made.map((each) => [each.turn.id, each]), ...this.turns]);
    this.log.scrollTop += this.log.scrollHeight - before;
  }
}

export default () => {
  let room;
  return {
    initialize({ model }) {
      room = new Room(model);
      return () => room.close();
    },
    render({ el: root }) {
      const view = new View(room, root);
      room.views.add(view);
      room.send({ do: "hello" });
      return () => {
        room.views.delete(view);
        view.close();
      };
    },
  };
};
