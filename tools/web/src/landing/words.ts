// Static pages carry their English text; elements with data-word are put into the chosen language.

import { chooseLanguage, otherLanguage, preferredLanguage, wordsOf } from "../core/words";

/** Fills the page and its language switch, now and whenever the language changes. */
export function translatePage(): void {
  const fill = () => {
    const language = preferredLanguage();
    chooseLanguage(language);
    const words = wordsOf(language) as unknown as Record<string, unknown>;
    for (const element of document.querySelectorAll<HTMLElement>("[data-word]")) {
      const word = words[element.dataset["word"] ?? ""];
      if (typeof word === "string") element.textContent = word;
    }
    const toggle = document.querySelector<HTMLButtonElement>("#language");
    if (toggle !== null) toggle.textContent = otherLanguage(language).name;
  };
  document.querySelector("#language")?.addEventListener("click", () => {
    chooseLanguage(otherLanguage(preferredLanguage()).language);
    window.dispatchEvent(new Event("ringdesk-language"));
  });
  window.addEventListener("ringdesk-language", fill);
  fill();
}
