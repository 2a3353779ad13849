// The dashboard (mastra_nb/notebook/dashboard.py is the other end). Only a page of anything is in
// the document. What is out of sight asks nothing; it catches up when it is seen.

const PATIENCE = 30000;
const PAGE = 50;
const RECORD = "application/vnd.mastra.run.v1+json";
let views = 0;

function wire(model) {
  const view = `v${++views}-${Math.random().toString(36).slice(2)}`;
  const waiting = new Map();
  let count = 0;
  const changed = new Set();
  const heard = (message) => {
    if (message?.event === "changed") for (const each of changed) each();
    const asked = waiting.get(message?.id);
    if (!asked) return;
    waiting.delete(message.id);
    clearTimeout(asked.timer);
    if (message.error) asked.reject(Object.assign(new Error(message.error.message), message.error));
    else asked.resolve(message.ok);
  };
  model.on("msg:custom", heard);
  return {
    changed,
    ask: (name, args = {}) =>
      new Promise((resolve, reject) => {
        const id = `${view}-${++count}`;
        const late = () => {
          waiting.delete(id);
          reject(
            Object.assign(new Error("The kernel does not answer."), {
              hint: "Is it busy, or gone? Run the cell again.",
            }),
          );
        };
        waiting.set(id, { resolve, reject, timer: setTimeout(late, PATIENCE) });
        model.send({ id, ask: name, args });
      }),
    close: () => {
      model.off("msg:custom", heard);
      for (const each of waiting.values()) clearTimeout(each.timer);
      waiting.clear();
    },
  };
}

// Draws what is asked for into `box`: a skeleton if it takes a while, an error with a way on. Of
// several questions for one box only the last is drawn.
function loader(box) {
  let turn = 0;
  return async function load(ask, draw, { quiet = false } = {}) {
    const mine = ++turn;
    const slow = quiet ? 0 : setTimeout(() => box.replaceChildren(skeleton()), 120);
    try {
      const found = await ask();
      if (mine === turn) draw(found);
    } catch (error) {
      if (mine === turn) box.replaceChildren(failed(error, () => load(ask, draw)));
    } finally {
      clearTimeout(slow);
    }
  };
}

function later(action, ms = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, ms);
  };
}

function search(label, oninput) {
  return el("input", {
    class: "mnb-input",
    type: "search",
    placeholder: label,
    "aria-label": label,
    oninput: later(oninput),
  });
}

function select(label, options, onchange) {
  const made = options.map(([value, text]) => el("option", { value }, text));
  return el("select", { class: "mnb-input", "aria-label": label, onchange }, ...made);
}
