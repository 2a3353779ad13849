// The conversations.

class Threads {
  constructor(view) {
    this.view = view;
    const id = unique("threads");
    this.title = el("span", { class: "mnb-threadtitle" });
    this.toggle = el(
      "button",
      {
        type: "button",
        class: "mnb-threadbutton",
        "aria-expanded": "false",
        "aria-controls": id,
        title: "Conversations",
        onclick: () => this.show(this.panel.hidden),
      },
      this.title,
      icon("down"),
    );
    this.list = el("ul", { class: "mnb-threadlist" });
    this.panel = el(
      "div",
      { class: "mnb-threads", id, role: "dialog", "aria-label": "Conversations", hidden: true },
      this.list,
    );
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.show(false);
        this.toggle.focus();
      } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const all = [...this.list.querySelectorAll(".mnb-threadopen")];
        const at = all.indexOf(document.activeElement);
        if (at < 0) return;
        event.preventDefault();
        all[(at + (event.key === "ArrowDown" ? 1 : all.length - 1)) % all.length].focus();
      }
    });
  }

  show(open) {
    this.panel.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open) {
      this.entering = true;
      this.list.replaceChildren(el("li", { class: "mnb-hint" }, "Loading…"));
      this.view.room.send({ do: "threads" });
    }
  }

  name() {
    const { thread } = this.view.room;
    this.title.textContent = thread?.title || "New conversation";
    this.toggle.title = thread ? `Conversations (this one: ${thread.id})` : "Conversations";
  }

  draw() {
    if (this.panel.hidden) return;
    const { room } = this.view;
    this.list.replaceChildren(...room.threads.map((thread) => this.row(thread)));
    if (this.entering) this.list.querySelector("[aria-current], .mnb-threadopen")?.focus();
    this.entering = false;
  }

  row(thread) {
    const { room } = this.view;
    const current = thread.id === room.thread?.id;
    const name = thread.title || "New conversation";
    const item = el("li", { class: "mnb-threadrow" });
    const open = () => {
      this.show(false);
      this.toggle.focus();
      if (!current) room.send({ do: "open", thread: thread.id });
    };
    const plain = () =>
      item.replaceChildren(
        el(
          "button",
          {
            type: "button",
            class: "mnb-threadopen",
            "aria-current": current ? "true" : null,
            onclick: open,
            title: thread.id,
          },
          thread.branch ? icon("branch") : null,
          el("span", { class: "mnb-threadname" }, name),
          el("span", { class: "mnb-when" }, ago(thread.at)),
        ),
        iconButton("edit", `Rename ${name}`, rename),
        iconButton("trash", `Delete ${name}`, remove),
      );
    const rename = () => {
      const field = el("input", { class: "mnb-field", type: "text", "aria-label": "New title" });
      field.value = thread.title;
      const back = () => {
        plain();
        item.querySelector("button").focus();
      };
      keys(field, {
        Escape: back,
        Enter: () => room.send({ do: "rename", thread: thread.id, title: field.value }),
      });
      item.replaceChildren(field);
      field.select();
      field.focus();
    };
    const remove = () => {
      const id = unique("delete");
      const keep = button("Keep", () => {
        plain();
        item.querySelector("button").focus();
      });
      item.replaceChildren(
        el(
          "div",
          { class: "mnb-confirm", role: "alertdialog", "aria-labelledby": id },
          el("span", { id }, `Delete “${cut(name, 40)}” for good?`),
          button("Delete", () => room.send({ do: "delete", thread: thread.id }), "mnb-danger"),
          keep,
        ),
      );
      keep.focus();
    };
    plain();
    return item;
  }
}
