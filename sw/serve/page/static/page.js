// Puts the page together.

import { describe, startChat } from "./chat.js";
import { watchMachine } from "./machine.js";

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.show;
    for (const other of document.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", other === button);
    dispatchEvent(new Event("resize"));
  });
}
startChat();
watchMachine(describe);
