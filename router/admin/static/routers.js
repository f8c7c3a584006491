// The routers, and what each has booked.

import { h, keyed, mark, one, put, region, table } from "./dom.js";
import { compact, count } from "./format.js";

export class RouterPanel {
  constructor() {
    const body = h("tbody");
    const columns = ["Requests booked", "Queued tokens", "Active tokens", "Replicas in use"];
    const headings = [["Router"], ...columns.map((text) => [text, "n"])];
    one("#router-list").append(
      region("Routers in a table", "scroll", table(null, "Routers and their bookings", headings, body)),
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
