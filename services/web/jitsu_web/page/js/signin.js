// Sign in with a token.

import { api } from "./api.js";
import { h } from "./dom.js";

/** Return the form; `done` gets the session. `why` says why the person has to sign in again. */
export function signIn(done, why = "") {
  const token = h("input", { type: "password", id: "token", name: "token", required: true, autocomplete: "current-password", spellcheck: false });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const go = h("button", { class: "button main", type: "submit" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    wrong.textContent = "";
    try {
      done(await api.signIn(token.value.trim()));
    } catch (error) {
      if (!("status" in error)) throw error;
      wrong.textContent = error.status === 401 ? "This token is not known, or it has expired." : [error.message, error.hint].filter(Boolean).join(". ");
      go.disabled = false;
      token.focus();
    }
  };
  const form = h(
    "form",
    { class: "card", onsubmit: submit },
    h("img", { src: "./icon.svg", alt: "", width: 40, height: 40 }),
    h("h1", {}, "Jitsu"),
    why ? h("p", { class: "hint" }, why) : null,
    h("input", { type: "text", name: "username", value: "token", autocomplete: "username", hidden: true }),
    h("label", { class: "field", for: "token" }, "Token"),
    token,
    wrong,
    go,
    h("p", { class: "quiet" }, "Make a token on the machine of the suite: ", h("code", {}, "jitsu token create NAME --role operator"), "."),
  );
  return { element: h("main", { id: "main", class: "signin" }, form), entered: () => token.focus() };
}
