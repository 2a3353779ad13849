// Where one writes.

class Composer {
  constructor(view) {
    this.view = view;
    this.files = [];
    this.chips = el("div", { class: "mnb-chips" });
    this.error = el("div", { class: "mnb-composererror", role: "alert" });
    this.field = el("textarea", {
      class: "mnb-input",
      rows: 1,
      placeholder: "Ask…",
      "aria-label": "Your message",
    });
    this.picker = el("input", { type: "file", multiple: true, hidden: true, tabindex: -1 });
    this.picker.addEventListener("change", () => {
      this.attach([...this.picker.files]);
      this.picker.value = "";
    });
    this.plus = iconButton("attach", "Attach files or images", () => this.picker.click());
    this.go = iconButton("send", "Send", () => this.send(), "mnb-send");
    this.halt = iconButton("stop", "Stop (Esc)", () => this.stop(), "mnb-stop");
    this.node = el(
      "div",
      { class: "mnb-composer" },
      this.error,
      el(
        "div",
        { class: "mnb-box" },
        this.chips,
        this.field,
        el(
          "div",
          { class: "mnb-row" },
          this.plus,
          this.picker,
          el("span", { class: "mnb-hint mnb-grow" }, "Enter sends, Shift+Enter makes a new line"),
          this.halt,
          this.go,
        ),
      ),
    );
    this.field.addEventListener("input", () => {
      fit(this.field, 180);
      this.refresh();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    this.refresh();
  }

  refresh() {
    const { busy, lost, known } = this.view.room;
    this.halt.hidden = !busy;
    this.go.hidden = busy;
    this.go.disabled = lost || !known || !(this.field.value.trim() || this.files.length);
    this.field.disabled = lost;
    this.plus.disabled = lost;
  }

  tell(text) {
    this.error.textContent = text;
  }

  attach(files) {
    this.tell("");
    const { media, model } = this.view.room;
    for (const file of files) {
      const together = this.files.reduce((sum, each) => sum + each.size, file.size);
      const sees =
        !media ||
        media.some(
          (pattern) => pattern === file.type || pattern === `${file.type.split("/")[0]}/*`,
        );
      if (file.size > MOST_FILE)
        this.tell(`“${file.name}” has ${bytes(file.size)}; a file may have ${bytes(MOST_FILE)}.`);
      else if (together > MOST_FILES)
        this.tell(`The files may have ${bytes(MOST_FILES)} together.`);
      else if (/^(image|audio|video)\//.test(file.type) && !sees) {
        this.tell(
          `${model || "This model"} takes no ${file.type.startsWith("image/") ? "images" : file.type}. Give the agent a model that does.`,
        );
      } else {
        this.files.push(file);
        if (/^image\/(png|jpeg|gif|webp)$/.test(file.type))
          file.preview = URL.createObjectURL(file);
      }
    }
    this.drawChips();
    this.field.focus();
  }

  drawChips() {
    this.chips.replaceChildren(
      ...this.files.map((file) =>
        chip({ name: file.name, size: file.size, preview: file.preview }, () => {
          this.drop(file);
          this.field.focus();
        }),
      ),
    );
    this.refresh();
  }

  drop(file) {
    if (file.preview) URL.revokeObjectURL(file.preview);
    this.files = this.files.filter((each) => each !== file);
    this.drawChips();
  }

  async send() {
    const { room } = this.view;
    // The answer is there, and only its last things are being put away.
    this.eager = room.busy && !["running", "suspended"].includes(room.turns.at(-1)?.status);
    if (this.go.disabled || room.busy) return;
    this.tell("");
    const text = this.field.value;
    const files = this.files;
    // Given back if the kernel refuses it.
    this.sent = { text, files };
    room.busy = true;
    this.field.value = "";
    this.files = [];
    fit(this.field, 180);
    this.drawChips();
    this.view.stick = true;
    const buffers = await Promise.all(files.map((file) => file.arrayBuffer()));
    room.send(
      { do: "ask", text, files: files.map((file) => ({ name: file.name, mime: file.type })) },
      buffers,
    );
  }

  taken() {
    for (const file of this.sent?.files ?? []) if (file.preview) URL.revokeObjectURL(file.preview);
    this.sent = undefined;
    // A kernel that was only busy has taken it after all.
    if (this.returned !== undefined && this.field.value === this.returned) {
      this.field.value = "";
      this.files = [];
      this.drawChips();
    }
    this.returned = undefined;
  }

  giveBack() {
    if (this.sent === undefined) return;
    this.returned = this.sent.text;
    this.field.value = this.field.value || this.sent.text;
    this.files = [...this.sent.files, ...this.files];
    this.sent = undefined;
    fit(this.field, 180);
    this.drawChips();
  }

  stop() {
    if (!this.view.room.busy) return;
    this.view.room.send({ do: "stop" });
    this.field.focus();
  }
}
