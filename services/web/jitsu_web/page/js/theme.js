// Dark or light, before anything is drawn. This is a classic script, because modules run only after the first drawing.
(() => {
  const KEY = "jitsu.theme";
  const CHOICES = ["auto", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      return CHOICES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "auto";
    } catch {
      return "auto"; // storage is switched off
    }
  }

  root.dataset.theme = stored();
  window.jitsuTheme = {
    get choice() {
      return root.dataset.theme;
    },
    /** Go on to the next choice and return it. */
    next() {
      root.dataset.theme = CHOICES[(CHOICES.indexOf(root.dataset.theme) + 1) % CHOICES.length];
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // The choice is then kept for as long as the page is open.
      }
      return root.dataset.theme;
    },
  };
})();
