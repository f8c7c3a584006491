// The one small panel that shows what is under the pointer or the keyboard's cursor.

import { h, one } from "./dom.js";

const GAP = 14;

/** Show a title and rows [[label, value, class of the colour key]] near a point of the window. */
export function showTip(x, y, title, rows) {
  const tip = one("#tip");
  tip.replaceChildren(
    h("h4", {}, title),
    h(
      "dl",
      {},
      ...rows.flatMap(([label, value, key]) => [
        h("dt", {}, key ? h("span", { class: `key ${key}` }) : null, label),
        h("dd", {}, value),
      ]),
    ),
  );
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + GAP + width > innerWidth ? x - GAP - width : x + GAP;
  const top = Math.min(Math.max(y - height / 2, 8), innerHeight - height - 8);
  tip.style.transform = `translate(${Math.round(Math.max(left, 8))}px, ${Math.round(top)}px)`;
}

export function hideTip() {
  one("#tip").hidden = true;
}
