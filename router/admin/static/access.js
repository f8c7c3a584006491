// Asks for the admin token where the router wants one.

import { token } from "./api.js";
import { one, put } from "./dom.js";

export class Access {
  constructor(enter) {
    one("#token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      token.set(one("#token").value.trim());
      enter();
    });
  }

  /** The router wants a token (401), or refuses this page whatever it sends (403). */
  refused({ status, message }) {
    const tried = token.get() !== "";
    token.forget();
    one("#access").hidden = false;
    one("#main").hidden = true;
    one("#token-form").hidden = false;
    if (status === 403) {
      put(one("#access-title"), "This router refuses the dashboard here");
      put(one("#token-text"), message);
      for (const element of one("#token-form").querySelectorAll("label, .inline")) element.hidden = true;
      return;
    }
    put(one("#token-problem"), tried ? "This token is wrong." : "");
    one("#token").value = "";
    one("#token").focus();
  }

  granted() {
    one("#access").hidden = true;
    one("#main").hidden = false;
  }
}
