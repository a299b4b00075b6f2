// What is around every page: the name, where one can go, whether the page is live, the theme, who is signed in.

import { h, button, setAttribute, setText } from "./dom.js";
import { duration } from "./words.js";

const PLACES = [
  ["VMs", "#/vms", "g v"],
  ["Services", "#/services", "g s"],
  ["Branches", "#/branches", "g b"],
];
const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const THEME_SIGNS = { auto: "◐", light: "○", dark: "●" };

export class Shell {
  /** `on` has retry(), signOut() and help(). */
  constructor(session, on) {
    this.links = PLACES.map(([label, href, keys]) => h("a", { href, "aria-keyshortcuts": keys }, label));
    this.connection = h("span", { class: "connection", "data-state": "connecting" }, "connecting");
    this.again = button("Try now", on.retry, { kind: "bare", hidden: true });
    this.theme = button("", () => this.showTheme(window.jitsuTheme.next()), { kind: "bare", class: "button bare theme" });
    this.main = h("main", { id: "main", tabIndex: -1 });
    this.lost = h("p", { class: "lost", hidden: true }, "What you see may be out of date.");
    const bar = h(
      "div",
      { class: "bar" },
      h("a", { class: "brand", href: "#/vms" }, h("img", { src: "./icon.svg", alt: "", width: 24, height: 24 }), "Jitsu"),
      h("nav", { "aria-label": "Pages" }, this.links),
      h("div", { class: "right" }, this.connection, this.again, this.theme, button("?", on.help, { kind: "bare", "aria-label": "Help and keys", "aria-keyshortcuts": "?" }), this.person(session, on)),
    );
    const skip = h("a", { class: "skip", href: "#main", onclick: (event) => this.skip(event) }, "Skip to the content");
    this.element = h("div", { class: "shell" }, skip, h("header", { class: "above" }, bar, this.lost), this.main);
    this.showTheme(window.jitsuTheme.choice);
  }

  person(session, on) {
    return h(
      "span",
      { class: "person" },
      h("span", { class: "whom", title: `${session.name}, ${session.role}` }, session.name, h("small", {}, session.role)),
      button("Sign out", on.signOut, { kind: "bare" }),
    );
  }

  skip(event) {
    event.preventDefault();
    this.main.focus();
  }

  showTheme(choice) {
    this.theme.textContent = THEME_SIGNS[choice];
    setAttribute(this.theme, "aria-label", `Colours: ${THEMES[choice]}. Change them`);
    setAttribute(this.theme, "title", `Colours: ${THEMES[choice]}`);
  }

  /** Mark the page that is shown in the navigation. */
  at(hash) {
    for (const link of this.links) {
      const here = hash.startsWith(link.getAttribute("href"));
      setAttribute(link, "aria-current", here ? "page" : null);
    }
  }

  /** Show whether what is on the page is live; `seconds` is the wait until the next try. */
  showConnection(state, seconds) {
    clearInterval(this.counting);
    this.connection.dataset.state = state;
    this.again.hidden = state !== "lost";
    this.lost.hidden = state === "live" || (state === "connecting" && this.lost.hidden);
    if (state === "live") setText(this.connection, "live");
    else if (state === "connecting") setText(this.connection, "connecting");
    else {
      const until = Date.now() + seconds * 1000;
      const show = () => setText(this.connection, `connection lost, again in ${duration(Math.max(1, Math.ceil((until - Date.now()) / 1000)))}`);
      show();
      this.counting = setInterval(show, 1000);
    }
  }
}
