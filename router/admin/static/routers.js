// The routers, and what each has booked.

import { h, keyed, mark, one, put } from "./dom.js";
import { compact, count } from "./format.js";

export class RouterPanel {
  constructor() {
    const body = h("tbody");
    one("#router-list").append(
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Routers" },
        h(
          "table",
          {},
          h("caption", {}, "Routers and their bookings"),
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "Router"),
              ...["Requests booked", "Queued tokens", "Active tokens", "Replicas in use"].map((text) =>
                h("th", { scope: "col", class: "n" }, text),
              ),
            ),
          ),
          body,
        ),
      ),
    );
    this.sync = keyed(
      body,
      ({ router }) => router,
      ({ router }) => {
        const own = h("span", { class: "tag", "data-tone": "accent" }, "answers this page");
        const cells = ["running", "queued_tokens", "active_tokens", "replicas"].map((name) => [
          name,
          h("td", { class: "n" }),
        ]);
        return {
          element: h(
            "tr",
            { "data-router": router },
            h("th", { scope: "row" }, h("code", { title: router }, router.slice(0, 12)), " ", own),
            ...cells.map(([, cell]) => cell),
          ),
          update: (now) => {
            mark(own, "hidden", now.this ? null : "");
            for (const [name, cell] of cells)
              put(cell, name === "running" || name === "replicas" ? count(now[name]) : compact(now[name]));
          },
        };
      },
    );
  }

  overview({ routers }) {
    this.sync(routers);
  }
}
