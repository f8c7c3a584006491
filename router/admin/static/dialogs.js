// The two dialogs: one that asks before anything is changed, one sheet that shows details.

import { one, put } from "./dom.js";

/** Ask; run `go` when confirmed. What goes wrong is said in the dialog, which then stays open. */
export function confirmed({ title, text, button, go }) {
  const dialog = one("#confirm");
  const action = one("#confirm-go");
  const problem = one("#confirm-problem");
  put(one("#confirm-title"), title);
  put(one("#confirm-text"), text);
  put(action, button);
  put(problem, "");
  action.disabled = false;
  return new Promise((resolve) => {
    let done = false;
    action.onclick = async () => {
      action.disabled = true;
      put(problem, "");
      try {
        await go();
        done = true;
        dialog.close();
      } catch (error) {
        put(problem, error.message);
        action.disabled = false;
      }
    };
    dialog.onclose = () => resolve(done);
    dialog.showModal();
    one("button[value=cancel]", dialog).focus();
  });
}

/** Open the sheet on the right with a title and elements; `closed` is called once it is gone. */
export function openSheet(title, elements, closed = () => {}) {
  const sheet = one("#sheet");
  fillSheet(title, elements);
  sheet.onclose = closed;
  sheet.onclick = (event) => {
    if (event.target === sheet) sheet.close();
  }; // a click beside it
  if (!sheet.open) sheet.showModal();
}

/** Change what the open sheet shows. */
export function fillSheet(title, elements) {
  put(one("#sheet-title"), title);
  one("#sheet-body").replaceChildren(...elements);
}

export function closeSheet() {
  const sheet = one("#sheet");
  if (sheet.open) sheet.close();
}
