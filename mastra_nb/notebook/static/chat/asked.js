// What a run waits for.

function askedBox(asked, send) {
  const title = unique("asked");
  const about = unique("about");
  const isApproval = asked.reason === "approval";
  const box = el("div", {
    class: "mnb-asked",
    role: "alertdialog",
    "aria-labelledby": title,
    "aria-describedby": about,
  });
  const actions = el("div", { class: "mnb-row" });
  const more = el("div", { class: "mnb-more" });
  const error = el("div", { class: "mnb-badtext", role: "alert" });
  const answer = (value) => {
    for (const each of box.querySelectorAll("button, textarea, input")) each.disabled = true;
    box.classList.add("mnb-answered");
    send(value);
  };
  const head = isApproval
    ? ["Approve ", el("code", {}, asked.tool ?? "this call"), "?"]
    : [asked.reason || "Your answer is needed"];
  const given = isApproval ? asked.args : asked.payload;
  box.append(
    el("div", { class: "mnb-askedhead", id: title }, icon("hand"), el("span", {}, ...head)),
    el("div", { id: about }, argumentList(given)),
    more,
    error,
    actions,
  );

  const choices = () => {
    more.replaceChildren();
    error.textContent = "";
    actions.replaceChildren(
      button("Approve", () => answer({ approved: true }), "mnb-primary"),
      button("Edit arguments", edit),
      button("Deny", deny, "mnb-danger"),
    );
  };
  const back = () => {
    choices();
    actions.firstElementChild.focus();
  };
  const edit = () => {
    const field = jsonField("Arguments as JSON", asked.args ?? {}, back);
    const approve = button(
      "Approve with these",
      () => {
        try {
          answer({ approved: true, args: JSON.parse(field.value) });
        } catch (wrong) {
          error.textContent = `This is no JSON: ${wrong.message}`;
          field.focus();
        }
      },
      "mnb-primary",
    );
    more.replaceChildren(field);
    actions.replaceChildren(approve, button("Back", back));
    fit(field, 240);
    field.focus();
  };
  const deny = () => {
    const field = el("input", {
      class: "mnb-field",
      type: "text",
      placeholder: "Why not? The model is told. (optional)",
      "aria-label": "Reason for denying",
    });
    const send = () =>
      answer(
        field.value.trim() ? { approved: false, reason: field.value.trim() } : { approved: false },
      );
    keys(field, { Enter: send, Escape: back });
    more.replaceChildren(field);
    actions.replaceChildren(button("Deny", send, "mnb-danger"), button("Back", back));
    field.focus();
  };
  const ask = () => {
    const kind = asked.schema?.type;
    if (kind === "boolean") {
      actions.replaceChildren(
        button("Yes", () => answer(true), "mnb-primary"),
        button("No", () => answer(false)),
      );
      return;
    }
    const isText = kind === "string" || asked.schema === undefined;
    const field = isText
      ? el("input", { class: "mnb-field", type: "text", "aria-label": "Your answer" })
      : jsonField("Your answer as JSON", example(asked.schema), () => {});
    const send = () => {
      try {
        answer(isText ? field.value : JSON.parse(field.value));
      } catch (wrong) {
        error.textContent = `This is no JSON: ${wrong.message}`;
      }
    };
    if (isText) keys(field, { Enter: send });
    more.replaceChildren(field);
    actions.replaceChildren(button("Answer", send, "mnb-primary"));
  };
  if (isApproval) choices();
  else ask();
  return box;
}

function keys(field, actions) {
  field.addEventListener("keydown", (event) => {
    const action = event.isComposing ? undefined : actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });
}

function jsonField(label, value, onescape) {
  const field = el("textarea", {
    class: "mnb-field mnb-mono",
    "aria-label": label,
    spellcheck: "false",
    rows: 4,
  });
  field.value = JSON.stringify(value, null, 2);
  field.addEventListener("input", () => fit(field, 240));
  keys(field, { Escape: onescape });
  return field;
}

const EMPTY = { string: "", number: 0, integer: 0, boolean: false, array: [], object: {} };

function example(schema) {
  if (schema?.default !== undefined) return schema.default;
  if (schema?.enum?.length) return schema.enum[0];
  if (schema?.type === "object") {
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([name, each]) => [name, example(each)]),
    );
  }
  return EMPTY[schema?.type] ?? null;
}

function argumentList(args) {
  if (args === undefined || args === null) return null;
  if (typeof args !== "object" || Array.isArray(args))
    return el("pre", { tabindex: 0 }, pretty(args));
  const rows = Object.entries(args).flatMap(([name, value]) => [
    el("dt", {}, name),
    el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
  ]);
  return rows.length
    ? el("dl", { class: "mnb-arglist" }, ...rows)
    : el("div", { class: "mnb-hint" }, "without arguments");
}
