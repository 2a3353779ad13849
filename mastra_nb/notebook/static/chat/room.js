// What was said, once for each widget.

class Room {
  constructor(model) {
    this.widget = model;
    this.views = new Set();
    this.turns = [];
    this.threads = [];
    this.known = false;
    this.busy = false;
    this.lost = false;
    this.waits = 0;
    this.heard = (message) => this.apply(message);
    model.on("msg:custom", this.heard);
    this.gone = () => this.lose();
    model.on("comm_live_update", this.gone);
  }

  close() {
    clearTimeout(this.waits);
    this.widget.off("msg:custom", this.heard);
    this.widget.off("comm_live_update", this.gone);
  }

  send(message, buffers = []) {
    clearTimeout(this.waits);
    this.waits = setTimeout(() => this.lose(), PATIENCE);
    try {
      this.widget.send(message, undefined, buffers);
    } catch (error) {
      console.error("mastra_nb chat:", error);
      this.lose();
    }
  }

  lose() {
    this.lost = true;
    this.busy = false;
    this.tell({ kind: "lost" });
  }

  tell(message) {
    for (const view of this.views) view.update(message);
  }

  find(id) {
    return this.turns.find((turn) => turn.id === id);
  }

  apply(message) {
    clearTimeout(this.waits);
    const found = this.lost;
    this.lost = false;
    switch (message.kind) {
      case "state":
        this.known = true;
        for (const name of [
          "agent",
          "about",
          "model",
          "media",
          "thread",
          "busy",
          "earlier",
          "turns",
        ])
          this[name] = message[name];
        break;
      case "turn":
        this.turns.push(message.turn);
        break;
      case "delta":
        if (!this.patch(message)) return;
        break;
      case "earlier":
        this.turns.unshift(...message.turns);
        this.earlier = message.earlier;
        break;
      case "gone":
        this.turns = this.turns.filter((turn) => turn.id !== message.turn);
        break;
      case "busy":
        this.busy = message.busy;
        break;
      case "titled":
        if (this.thread?.id === message.thread)
          this.thread = { id: message.thread, title: message.title };
        break;
      case "threads":
        this.threads = message.threads;
        break;
    }
    this.tell(message);
    if (found) this.tell({ kind: "found" });
  }

  patch({ id, head, items, count }) {
    const turn = this.find(id);
    if (turn === undefined) return false;
    for (const [name, value] of Object.entries(head)) {
      if (value === null) delete turn[name];
      else turn[name] = value;
    }
    for (const change of items) {
      if (change.item !== undefined) {
        turn.items[change.i] = change.item;
        continue;
      }
      const blocks = turn.items[change.i].blocks;
      const kept = change.at ? blocks[change.from].slice(0, change.at) : "";
      blocks.length = change.from;
      if (kept || change.text) blocks.push(kept + change.text);
      blocks.push(...change.more);
    }
    turn.items.length = count;
    return true;
  }
}
